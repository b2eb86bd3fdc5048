from .decay import Decay as Decay, envelope as envelope, fit_decay as fit_decay
from .order import order as order
