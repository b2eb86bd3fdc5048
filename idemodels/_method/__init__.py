from .base import AbstractMethod as AbstractMethod
from .exponential_multistep import ExponentialMultistep as ExponentialMultistep
from .fixed_point import FixedPoint as FixedPoint
from .history import History as History
from .markov import Markov as Markov
from .quasi_newton_bdf import QuasiNewtonBDF as QuasiNewtonBDF
