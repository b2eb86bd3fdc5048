from collections.abc import Mapping

from .agreement import agreement
from .base import Finding as Finding, Study as Study
from .basins import basins
from .edge import edge
from .error_table import error_table
from .files import files
from .loss_gap import loss_gap
from .order_gap import order_gap
from .positivity import positivity
from .rates import rates
from .shifted_start import shifted_start
from .strides import strides
from .theorems import theorems
from .velocity import velocity

# What a config's key `study` may be.
STUDIES: Mapping[str, Study] = {
    "error_table": error_table,
    "velocity": velocity,
    "basins": basins,
    "loss_gap": loss_gap,
    "positivity": positivity,
    "order_gap": order_gap,
    "shifted_start": shifted_start,
    "files": files,
    "edge": edge,
    "theorems": theorems,
    "rates": rates,
    "agreement": agreement,
    "strides": strides,
}

# Those that follow one parameter.
SCALAR = ("basins", "files", "positivity")
