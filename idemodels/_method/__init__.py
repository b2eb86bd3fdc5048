from .base import AbstractMethod as AbstractMethod
from .markov import Markov as Markov
