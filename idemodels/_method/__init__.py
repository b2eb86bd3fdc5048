from .base import AbstractMethod as AbstractMethod
from .fixed_point import FixedPoint as FixedPoint
from .history import History as History
from .markov import Markov as Markov
