from .adagrad import AdaGrad as AdaGrad
from .adam import Adam as Adam
from .base import AbstractModel as AbstractModel
from .rmsprop import RMSProp as RMSProp
from .schedule import Schedule as Schedule
