"""What a swept name stands for, and a lane's own model, objective, start and data."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._checks import near
from .._equation import dtype_of
from .._model import AbstractModel, Decay
from .._parameters import as_parameters
from .._types import Objective, Theta
from .design import Axis, Design


class Base(eqx.Module):
    """What every lane shares but for what is swept."""

    model: AbstractModel
    objective: Objective
    theta0: Theta
    args: Any


class Target(eqx.Module):
    """Where the values of one name go; compared by value, so that a sweep compiles once.

    - `part`: of a `Base`.
    - `field`: of the model, where it is a hyperparameter by the constructor's name.
    - `index`: of a leaf of the part, where it is named by its path.
    """

    part: str = eqx.field(static=True)
    field: str | None = eqx.field(static=True, default=None)
    index: int | None = eqx.field(static=True, default=None)

    def of(self, base: Base) -> Any:
        """The leaves that the values replace."""
        tree = getattr(base, self.part)
        if self.index is not None:
            return jax.tree.leaves(tree)[self.index]
        if self.field is None:
            return tree
        value = getattr(tree, self.field)
        return (value.complement, value.log) if isinstance(value, Decay) else value

    def leaves(self, base: Base, values: Any) -> Any:
        """Those leaves' values, from the user's; on the host, in double."""
        decay = self.field is not None and isinstance(getattr(base.model, self.field), Decay)
        return Decay.leaves(values) if decay else values

    def put(self, base: Base, values: Any) -> Base:
        """`base` with a lane's values."""
        return eqx.tree_at(self.of, base, values)


def targets_of(base: Base, design: Design) -> dict[str, Target]:
    """Where each swept name goes.

    **Raises:** `ValueError` for a name that there is not, or values that do not fit it.
    """
    known = _known(base)
    found = {}
    for name, axis in design.axes.items():
        if name not in known:
            listed = ", ".join(repr(name) for name in known if "." not in name)
            raise ValueError(
                f"Argument `over` must have names of what is swept, {listed} or the path of an "
                f"array such as {next(n for n in known if '.' in n)!r}, but has {name!r}."
                f"{near(name, known)}"
            )
        found[name] = known[name]
        _check(name, axis, base, known[name])
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


def _known(base: Base) -> dict[str, Target]:
    known = {}
    for field in vars(base.model):
        value = getattr(base.model, field)
        if isinstance(value, Decay) or (eqx.is_array(value) and value.ndim == 0):
            known[field.removeprefix("_")] = Target("model", field)
    known["theta0"] = Target("theta0")
    if base.args is not None:
        known["args"] = Target("args")
    for part in ("model", "objective"):
        leaves = jax.tree_util.tree_leaves_with_path(getattr(base, part))
        for i, (path, leaf) in enumerate(leaves):
            if eqx.is_array(leaf):
                known[part + jax.tree_util.keystr(path)] = Target(part, index=i)
    return known


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


def _check_hyperparameter(name: str, values: np.ndarray, model: AbstractModel) -> None:
    field = getattr(model, f"_{name}", None)
    if isinstance(field, Decay):
        matched = field.rate_name == "matched"
        allowed = (values > 0 if matched else values >= 0) & (values < 1)
        where = "(0, 1)" if matched else "[0, 1)"
        if not np.all(allowed):
            raise ValueError(f"Axis {name!r} must lie in {where}, but has {values[~allowed][0]}.")
    elif name in ("learning_rate", "eps") and np.any(values <= 0):
        raise ValueError(f"Axis {name!r} must be positive, but has {values[values <= 0][0]}.")


def dtype_of_base(base: Base) -> Any:
    """The floating type that the lanes are solved in."""
    return dtype_of(as_parameters(base.theta0)[0])
