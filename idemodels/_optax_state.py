"""Where optax keeps an optimizer's moments, and its update with derivatives where those are 0."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

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


@eqx.filter_custom_jvp
def updated(update: Any, g: PyTree[Array], theta: PyTree[Array], opt_state: Any) -> Any:
    """`update(g, theta, opt_state)`, with derivatives also where there was no gradient yet.

    There optax differentiates the root of a second moment at 0, and has NaN: for a pixel that is
    black in all images, say. The update is 0 then, and its derivative is that beside 0.
    """
    return update(g, theta, opt_state)


@updated.def_jvp
def _updated_jvp(primals: Any, tangents: Any) -> Any:
    update, g, theta, opt_state = primals
    beside = update, g, theta, lifted(opt_state)
    with jax.numpy_dtype_promotion("standard"):
        _, moved = eqx.filter_jvp(lambda update, *x: update(*x), beside, tangents)
        return update(g, theta, opt_state), moved
