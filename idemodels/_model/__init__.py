from .adagrad import AdaGrad as AdaGrad
from .adam import Adam as Adam
from .base import AbstractModel as AbstractModel
from .breakpoints import breakpoints_of as breakpoints_of
from .decay import Decay as Decay
from .memory_model import MemoryModel as MemoryModel
from .nesterov import Nesterov as Nesterov
from .rmsprop import RMSProp as RMSProp
from .schedule import (
    Schedule as Schedule,
    as_breakpoints as as_breakpoints,
    without_derivative_of_jumps as without_derivative_of_jumps,
)
from .second_order import SecondOrderAdam as SecondOrderAdam
