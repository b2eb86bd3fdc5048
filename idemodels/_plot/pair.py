"""What is drawn: an equation's path beside the discrete one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._results import Trajectory


@dataclass(frozen=True)
class Side:
    """One of both paths, its arrays on the host: the trajectory, and the gradient along it."""

    path: Trajectory
    gradient: Any


@dataclass(frozen=True)
class Pair:
    """Both paths of one case.

    - `values`: the hyperparameters by name.
    - `equation`: at the steps of `discrete`, and maybe between them.
    - `at`: where in `equation` those steps are, shape `(T,)`.
    - `error`: at the steps of `discrete`, shape `(T,)`.
    - `published`: the source's number for this case, or NaN.
    - `objective`: the loss as a function of theta.
    - `least`: the loss in the minimum, or NaN where that is not known.
    - `model`: whose paths they are.
    """

    values: Mapping[str, Any]
    equation: Side
    discrete: Side
    at: np.ndarray
    error: np.ndarray
    objective: Any = None
    published: float = np.nan
    least: float = np.nan
    model: Any = None
