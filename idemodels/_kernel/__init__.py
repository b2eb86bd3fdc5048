from .base import AbstractKernel as AbstractKernel, Memory as Memory
from .constant import Constant as Constant
from .exponential import Exponential as Exponential
