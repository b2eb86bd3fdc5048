from .base import AbstractMethod as AbstractMethod, Problem as Problem
from .exponential_multistep import ExponentialMultistep as ExponentialMultistep
from .fixed_point import FixedPoint as FixedPoint
from .history import History as History
from .leg import Carry as Carry, Front as Front, Leg as Leg, begin as begin
from .markov import Markov as Markov
from .quasi_newton_bdf import QuasiNewtonBDF as QuasiNewtonBDF
from .steady import Steady as Steady, Watch as Watch
