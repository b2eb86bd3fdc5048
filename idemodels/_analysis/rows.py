"""A trajectory's rows, as the analysis takes them: parameters and moments, checked."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._equation import cast, dtype_of
from .._model import AbstractModel
from .._parameters import as_parameters, check_model
from .._results import Trajectory
from .._types import Moments


class Rows(eqx.Module):
    """The parts of a trajectory that move.

    - `s`: the steps, on the host, shape `(T,)`.
    - `thetas`, `moments`: leaves with a leading axis T; second moments and all others by name.
    - `finite`: which rows are, `(T,)`: those up to a failure.
    - `first`: the first row's parameters, those that are held included.
    """

    s: np.ndarray
    thetas: PyTree[Array]
    moments: Moments
    finite: np.ndarray
    first: Any

    def take(self, at: np.ndarray) -> tuple[Array, PyTree[Array], Moments]:
        """The steps, parameters and moments of chosen rows."""
        dtype = jax.tree.leaves(self.thetas)[0].dtype
        chosen = jax.tree.map(lambda x: x[at], (self.thetas, self.moments))
        return jnp.asarray(self.s[at], dtype), *chosen


def rows_of(model: Any, trajectory: Any) -> Rows:
    """The rows, and that they are those of `model`.

    **Raises:** `ValueError` if `trajectory` is none, was kept by `save`, has not the model's
    memories, or no row that is finite.
    """
    check_model(model, AbstractModel, "a model such as `idemodels.Adam(0.1)`")
    check_trajectory(trajectory)
    wanted = list(model.memories())
    missing = [name for name in wanted if name not in trajectory.moments]
    if missing:
        names = ", ".join(map(repr, missing))
        hint = "Solve without `save`." if not trajectory.moments else "Is it another model's?"
        raise ValueError(
            f"Argument `trajectory` must have the moments of {type(model).__name__}, but has not "
            f"{names}. {hint}"
        )
    thetas, rest = as_parameters(trajectory.theta)
    # an optimizer may run, or keep its moments, in half precision
    moments = {name: eqx.filter(trajectory.moments[name], eqx.is_inexact_array) for name in wanted}
    kept = cast(moments, dtype_of(thetas))
    first = eqx.combine(jax.tree.map(lambda x: x[0], thetas), rest)
    flags = [
        np.isfinite(np.asarray(x)).reshape(x.shape[0], -1).all(axis=1)
        for x in jax.tree.leaves((thetas, kept))
    ]
    finite = np.all(flags, axis=0)
    if not finite.any():
        raise ValueError("Argument `trajectory` must have a row that is finite, but has none.")
    return Rows(np.asarray(trajectory.ts, float), thetas, kept, finite, first)


def check_trajectory(trajectory: Any) -> None:
    """Raises unless it is one path."""
    if not isinstance(trajectory, Trajectory):
        raise ValueError(f"Argument `trajectory` must be a Trajectory, but is {trajectory!r}.")
    if trajectory.ts.ndim != 1:
        raise ValueError(
            f"Argument `trajectory` must be one path, `ts` of shape (T,), but has shape "
            f"{trajectory.ts.shape}. Take one lane: `jax.tree.map(lambda x: x[i], trajectory)`."
        )
