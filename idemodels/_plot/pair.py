"""What is drawn: an equation's path beside the discrete one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
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
    - `published`: the source's number for this case, or NaN; `also_published`: further ones, by
        name.
    - `curve`: the source's theta at evenly spaced steps, from the first to the last; may be empty.
    - `ends`: steps at which another version of the source ends.
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
    also_published: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[float, ...] = ()
    ends: tuple[float, ...] = ()
