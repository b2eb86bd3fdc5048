"""Pointwise work on many parameters, a block of them at a time."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


def by_blocks(
    f: Any, size: int, theta: PyTree[Array], memory: dict[str, PyTree[Array]], *g: PyTree[Array]
) -> Any:
    """`f(theta, memory, *g)`, leaf by leaf and block by block: little is held at once.

    **Arguments:**

    - `f`: acts on each parameter alone, and returns a tuple of trees like `theta`, or dicts of
        them. It is called with one array in the place of each tree.
    - `size`: parameters in a block.
    - `theta`, `memory`, `g`: trees like `theta`, whose leaves may have more axes in front.
    """
    leaves, structure = jax.tree.flatten(theta)
    named = {name: structure.flatten_up_to(tree) for name, tree in memory.items()}
    rest = [structure.flatten_up_to(tree) for tree in g]
    outs = [
        _in_blocks(f, size, leaf, {name: z[i] for name, z in named.items()}, *(x[i] for x in rest))
        for i, leaf in enumerate(leaves)
    ]
    return jax.tree.map(lambda *xs: jax.tree.unflatten(structure, xs), *outs)


def _in_blocks(f: Any, size: int, theta: Array, *rest: Any) -> Any:
    total = theta.size
    if total <= size:
        return f(theta, *rest)
    flat = lambda x: x.reshape(*x.shape[: x.ndim - theta.ndim], total)
    args = jax.tree.map(flat, (theta, *rest))
    count = -(-total // size)
    # the last block reaches back into the one before it, where it computes the same once more
    starts = jnp.minimum(jnp.arange(count) * size, total - size)

    def block(start):
        cut = lambda x: jax.lax.dynamic_slice_in_dim(x, start, size, axis=-1)
        return f(*jax.tree.map(cut, args))

    def joined(y):
        y, last = y[:-1], y[-1]
        y = jnp.moveaxis(y, 0, -2).reshape(*last.shape[:-1], (count - 1) * size)
        y = jnp.concatenate([y, last[..., count * size - total :]], axis=-1)
        return y.reshape(*y.shape[:-1], *theta.shape)

    return jax.tree.map(joined, jax.lax.map(block, starts))
