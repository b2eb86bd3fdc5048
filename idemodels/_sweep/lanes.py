"""The values of a lane, and whether they are ones that their names may have."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._model import Decay
from .._parameters import as_parameters
from .._target import Base, Target, dtype_of_base, target_of
from .design import Axis, Design, as_rows, axes_of, design_of


def lay_out(over: Any, base: Base) -> tuple[Design, dict[str, Target]]:
    """The lanes of a sweep, and where each swept name goes.

    **Raises:** `ValueError` for a name that there is not, or values that do not fit it.
    """
    axes = axes_of(over)
    targets = {name: target_of(base, name, "over") for name in axes}
    for name, axis in axes.items():
        target = targets[name]
        if target.field is not None:
            _check_hyperparameter(name, axis.values, base.model)
        else:
            old = _moving(base) if target.part == "theta0" else target.of(base)
            scalar = eqx.is_array_like(old) and np.ndim(old) == 0
            if not (scalar and isinstance(axis, Axis)):
                rows = axis.values if isinstance(axis, Axis) else axis
                axes[name] = as_rows(name, rows, old)
        if target.part == "model":
            _check_valid(name, axes[name], base, target)
    return design_of(over, axes), targets


def lane_values(
    design: Design, base: Base, targets: dict[str, Target], lanes: np.ndarray, dtype: Any
) -> dict[str, Any]:
    """The leaves of each lane, each with a leading axis as long as `lanes`."""
    rows, values = design.rows(lanes), {}
    for name, axis in design.axes.items():
        at = rows[design.along[name]]
        values[name] = _leaves(axis, at, base, targets[name], dtype)
    return values


def _leaves(axis: Any, at: Any, base: Base, target: Target, dtype: Any) -> Any:
    """What replaces the leaves of a target in the rows `at` of an axis."""
    taken = jax.tree.map(lambda x: x[at], axis.values if isinstance(axis, Axis) else axis)
    cast = lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x
    if isinstance(axis, Axis) and _is_count(target.of(base)) and np.all(taken == np.round(taken)):
        taken = taken.astype(int)  # to be an index still
    return jax.tree.map(cast, target.leaves(base, taken))


def _is_count(x: Any) -> bool:
    return eqx.is_array_like(x) and bool(jnp.issubdtype(jnp.result_type(x), jnp.integer))


def _moving(base: Base) -> Any:
    """The parameters, with a word in the place of what is held fixed."""
    theta, rest = as_parameters(base.theta0)
    return eqx.combine(theta, jax.tree.map(lambda _: "fixed", rest))


def _check_valid(name: str, axis: Any, base: Base, target: Target) -> None:
    """Raises unless the model is valid with each value of an axis, as its lanes will have it."""
    leaves = _leaves(axis, slice(None), base, target, dtype_of_base(base))
    valid = lambda x: jnp.asarray(target.put(base, x).model.valid())
    flags = np.asarray(jax.vmap(valid)(leaves))
    if not np.all(flags):
        values = axis.values if isinstance(axis, Axis) else axis
        raise ValueError(
            f"Axis {name!r} must have values that {type(base.model).__name__} takes beside others, "
            f"but has {values[~flags][0]}. Solve that one alone, with a model made for it."
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
