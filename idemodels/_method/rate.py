"""Integrals over a learning rate that may change, jump or have kinks inside a cell."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._types import Scalar
from .cells import GAUSS, by_chunks

# Panels of Gauss's rule in a cell, where the rate changes: a jump that nobody knows costs at most a
# hundredth of what it would do over the cell.
_PANELS = 6
# Nodes crowd towards a start where powers of s begin: s = t^8 makes them smooth enough in t.
_CROWDED = 8.0
# A rate below zero by so many roundings of the largest is one that should be zero.
_ROUNDINGS = 10.0


def weighed(
    rate: Callable[[Scalar], Scalar],
    ends: Float[Array, " n_plus_1"],
    breaks: Float[Array, " b"],
    functions: Callable[[Int[Array, " c"], Float[Array, "c q"]], Float[Array, "c q k"]],
    *,
    varies: bool,
    crowded: bool = False,
) -> tuple[Float[Array, "n k"], Bool[Array, " n"]]:
    r"""$\int \alpha f_k$ over each of n cells, and whether the rate was `is_sound` there.

    By Gauss's rule in panels, which end at the breaks: nothing is lost at those.

    **Arguments:**

    - `ends`: of the cells.
    - `breaks`: where the rate jumps or has a kink; what is not inside is left out.
    - `functions`: of a cell's index, and of the fraction of it.
    - `varies`: whether the rate is no constant.
    - `crowded`: whether the functions have powers of the fraction in them where `ends` are 0.
    """
    n = ends.size - 1
    inside = (breaks > ends[0]) & (breaks < ends[-1])
    marks = jnp.sort(jnp.concatenate([ends, jnp.where(inside, breaks, ends[-1])]))
    left, width = marks[:-1], jnp.diff(marks)
    cell = jnp.clip(jnp.searchsorted(ends, left, side="right") - 1, 0, n - 1)
    length = jnp.diff(ends)
    t, w = (jnp.asarray(y, ends.dtype) for y in panels(_PANELS if varies else 1))

    def pieces(j):
        at, here = left[j], cell[j]
        whole = length[here]
        whole = jnp.where(whole > 0, whole, 1.0)
        f, weights = jnp.broadcast_to(t, (j.size, t.size)), jnp.broadcast_to(w, (j.size, w.size))
        if crowded:
            power = jnp.where(at == 0, _CROWDED, 1.0)[:, None]
            f, weights = f**power, weights * power * f ** (power - 1.0)
        way = width[j][:, None] * f
        alpha = at_all(rate, at[:, None] + way)
        alpha = jnp.where(width[j][:, None] > 0, alpha, 0.0)  # nothing is asked at the very end
        x = ((at - ends[here])[:, None] + way) / whole[:, None]
        integrals = jnp.einsum(
            "cq,cqk->ck", width[j][:, None] * weights * alpha, functions(here, x)
        )
        return integrals, jnp.min(alpha, axis=1), jnp.max(alpha, axis=1)

    integrals, least, most = by_chunks(pieces, left.size)
    total = jnp.zeros((n, integrals.shape[1]), ends.dtype).at[cell].add(integrals)
    unsound = jnp.zeros(n, int).at[cell].add((~is_sound(least, most)).astype(int))
    return total, unsound == 0


def is_sound(least: Float[Array, "*n"], most: Float[Array, "*n"]) -> Bool[Array, "*n"]:
    """Where a rate is finite, and not negative by more than rounding, from both its bounds there.

    NaN where the rate is.
    """
    finite = jnp.isfinite(least) & jnp.isfinite(most)
    size = jnp.max(jnp.where(finite, jnp.maximum(jnp.abs(least), jnp.abs(most)), 0.0))
    return finite & (least >= -_ROUNDINGS * jnp.finfo(size.dtype).eps * size)


def panels(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1] of Gauss's rule in as many equal panels."""
    x, w = GAUSS
    x = (np.arange(count)[:, None] + x[None]) / count
    return x.ravel(), np.tile(w / count, count)


def at_all(rate: Callable[[Scalar], Scalar], s: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The rate at every one of `s`."""
    return jax.vmap(rate)(s.ravel()).reshape(s.shape)
