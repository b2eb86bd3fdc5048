from .decay import (
    Decay as Decay,
    bound_decay as bound_decay,
    envelope as envelope,
    fit_decay as fit_decay,
    since as since,
)
from .order import order as order
