"""What is drawn: an equation's path beside the discrete one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._results import Trajectory


@dataclass(frozen=True)
class Pair:
    """Both paths of one case, their arrays on the host.

    - `values`: the hyperparameters by name.
    - `equation`: at the steps of `discrete`, and maybe between them.
    - `error`: at the steps of `discrete`, shape `(T,)`.
    """

    values: Mapping[str, Any]
    equation: Trajectory
    discrete: Trajectory
    error: np.ndarray
