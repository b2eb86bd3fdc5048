"""Where optax keeps an optimizer's moments."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ._model import AbstractModel, MemoryModel
from ._types import Moments

# The names of the moments here, and of the fields of optax's states that hold them.
FIELDS = {"m": ("mu",), "v": ("nu",), "G": ("accumulator", "sum_of_squares")}


def first_of(opt_state: Any, name: str) -> Any:
    """The first field `name` in a state, however deep; `None` if there is none."""
    found = optax.tree_utils.tree_get_all_with_path(opt_state, name)
    return found[0][1] if found else None


def moments_from_optax(opt_state: Any, model: AbstractModel | None = None) -> Moments:
    """The raw moments in an optax state, under the names that trajectories use.

    The twin of a `MemoryModel` keeps its memories' states, which that `model` can read.
    """
    if isinstance(model, MemoryModel):
        memory = first_of(opt_state, "memory") or {}
        return {name: model.memories()[name].markov.read(z) for name, z in memory.items()}
    moments = {}
    for name, fields in FIELDS.items():
        for field in fields:
            value = first_of(opt_state, field)
            if value is not None:
                moments[name] = value
                break
    return moments


def lifted(opt_state: Any) -> Any:
    """The state with second moments of 0 a hair above it, whose root is nothing beside an eps."""
    fields = {field for name in ("v", "G") for field in FIELDS[name]}

    def lift(path, x):
        if not any(getattr(key, "name", None) in fields for key in path):
            return x
        return jnp.where(x == 0, jnp.asarray(float(jnp.finfo(x.dtype).tiny) ** 0.75, x.dtype), x)

    return jax.tree_util.tree_map_with_path(lift, opt_state)
