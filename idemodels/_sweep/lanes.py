"""The values of a lane, and whether they are ones that their names may have."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._model import Decay
from .._parameters import as_parameters
from .._target import Base, Target, target_of
from .design import Axis, Design


def targets_of(base: Base, design: Design) -> dict[str, Target]:
    """Where each swept name goes.

    **Raises:** `ValueError` for a name that there is not, or values that do not fit it.
    """
    found = {}
    for name, axis in design.axes.items():
        found[name] = target_of(base, name, "over")
        _check(name, axis, base, found[name])
    return found


def lane_values(
    design: Design, base: Base, targets: dict[str, Target], lanes: np.ndarray, dtype: Any
) -> dict[str, Any]:
    """The leaves of each lane, each with a leading axis as long as `lanes`."""
    rows, values = design.rows(lanes), {}
    for name, axis in design.axes.items():
        at = rows[design.along[name]]
        taken = jax.tree.map(
            lambda x, at=at: x[at], axis.values if isinstance(axis, Axis) else axis
        )
        cast = lambda x: x.astype(dtype) if np.issubdtype(x.dtype, np.floating) else x
        values[name] = jax.tree.map(cast, targets[name].leaves(base, taken))
    return values


def _check(name: str, axis: Any, base: Base, target: Target) -> None:
    """Raises unless every value of an axis is one that the name may have."""
    if isinstance(axis, Axis) and name not in ("theta0", "args") and "." not in name:
        _check_hyperparameter(name, axis.values, base.model)
        return
    values = axis.values if isinstance(axis, Axis) else axis
    old = target.of(base)
    if name == "theta0":
        old = as_parameters(base.theta0)[0]
        values = eqx.filter(jax.tree.map(jnp.asarray, values), eqx.is_inexact_array)
    shapes = lambda tree, drop: jax.tree.map(lambda x: np.shape(x)[drop:], tree)
    if shapes(values, 1) != shapes(old, 0):
        raise ValueError(
            f"Axis {name!r} must have a row like {shapes(old, 0)} for each value, but has rows "
            f"like {shapes(values, 1)}."
        )


def _check_hyperparameter(name: str, values: np.ndarray, model: Any) -> None:
    field = getattr(model, f"_{name}", None)
    if isinstance(field, Decay):
        matched = field.rate_name == "matched"
        allowed = (values > 0 if matched else values >= 0) & (values < 1)
        where = "(0, 1)" if matched else "[0, 1)"
        if not np.all(allowed):
            raise ValueError(f"Axis {name!r} must lie in {where}, but has {values[~allowed][0]}.")
    elif name in ("learning_rate", "eps") and np.any(values <= 0):
        raise ValueError(f"Axis {name!r} must be positive, but has {values[values <= 0][0]}.")
