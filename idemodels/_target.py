"""What a name stands for: a hyperparameter by the constructor's name, or any array by its path."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ._checks import near
from ._equation import dtype_of
from ._flow import InterpolatingFlow
from ._model import AbstractModel, Decay
from ._parameters import as_parameters
from ._types import Objective, Theta

# The path of an array that is told where there is none.
_ELSE = "objective.data"


class Base(eqx.Module):
    """What is solved, but for the steps and the method."""

    model: AbstractModel | InterpolatingFlow
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
        decay = self.decay(base)
        return getattr(tree, self.field) if decay is None else (decay.complement, decay.log)

    def of_rate(self, base: Base) -> bool:
        """Whether the values replace the learning rate, or a part of it."""
        if self.part != "model" or isinstance(base.model, InterpolatingFlow):
            return False
        rates = jax.tree.leaves(base.model.learning_rate)
        own = jax.tree.leaves(self.of(base))
        return any(x is rate for x in own for rate in rates)

    def decay(self, base: Base) -> Decay | None:
        """The decay that the name stands for, where it does."""
        value = None if self.field is None else getattr(base.model, self.field)
        return value if isinstance(value, Decay) else None

    def value(self, base: Base) -> Any:
        """What the user gave: a decay itself, not what it is held as."""
        decay = self.decay(base)
        return self.of(base) if decay is None else decay.value

    def leaves(self, base: Base, values: Any) -> Any:
        """Those leaves' values, from the user's; on the host, in double."""
        return values if self.decay(base) is None else Decay.leaves(values)

    def moved(self, base: Base, by: Any) -> Base:
        """`base` with the values moved by so much: a decay itself, not what it is held as."""
        decay = self.decay(base)
        if decay is not None:
            leaves = decay.complement - by, decay.log + jnp.log1p(by / decay.value)
            return self.put(base, leaves)
        return self.put(base, eqx.apply_updates(self.of(base), by))

    def put(self, base: Base, values: Any) -> Base:
        """`base` with other values."""
        return eqx.tree_at(self.of, base, values)


def target_of(base: Base, name: str, argument: str) -> Target:
    """Where the values of `name` go.

    **Raises:** `ValueError` that names the argument, if there is no such name.
    """
    known = _known(base)
    if name not in known:
        listed = ", ".join(repr(name) for name in known if "." not in name)
        raise ValueError(
            f"Argument `{argument}` must have names of what there is, {listed} or the path of an "
            f"array such as {next((n for n in known if '.' in n), _ELSE)!r}, but has {name!r}."
            f"{near(name, known)}"
        )
    return known[name]


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
                if isinstance(getattr(base, part), InterpolatingFlow):
                    known[path[-1].key] = Target(part, index=i)  # its only arrays
    return known


def dtype_of_base(base: Base) -> Any:
    """The floating type that it is solved in."""
    return dtype_of(as_parameters(base.theta0)[0])
