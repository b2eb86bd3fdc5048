"""Names for the shapes that recur; jaxtyping checks them while the tests run."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

# A hyperparameter lives on the host, in double precision, until `solve` casts it.
Hyperparameter: TypeAlias = Float[Array | np.ndarray, "*batch"]
Scalar: TypeAlias = Float[Array, ""]
Path: TypeAlias = Float[Array, " t"]
Flag: TypeAlias = Bool[Array, ""]
Count: TypeAlias = Int[Array, ""]
Theta: TypeAlias = PyTree[Any]
Moments: TypeAlias = dict[str, PyTree[Any]]
Objective: TypeAlias = Callable[..., Any]
