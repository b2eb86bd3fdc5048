"""Integrals over a learning rate that may change, jump or have kinks inside a cell."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._model import AbstractModel
from .._types import Flag, Scalar
from .cells import GAUSS, by_chunks

# Panels of Gauss's rule in a cell, where the rate changes: a jump that nobody knows costs at most a
# hundredth of what it would do over the cell.
_PANELS = 6
# Nodes crowd towards a start where powers of s begin: s = t^8 makes them smooth enough in t.
_CROWDED = 8.0
# Where breaks are looked for: stretches of an interval, and how often one of them is halved.
_STRETCHES, _HALVINGS = 128, 48
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


class Usable(eqx.Module):
    """The learning rate where it is finite and not negative; 0 elsewhere.

    So that a path can be followed past its end, where nobody vouches for the schedule.

    - `safe`: a step at which there is a rate.
    """

    model: AbstractModel
    safe: Scalar

    @property
    def varies(self) -> bool:
        """Whether it is no constant."""
        return self.model.scheduled

    def __call__(self, s: Scalar) -> Scalar:
        """The rate at step `s`."""
        if not self.varies:
            return self.model.alpha(s)
        sound = self.is_sound(s)
        # masked twice, since a derivative where there is no rate is NaN
        return jnp.where(sound, self.model.alpha(jnp.where(sound, s, self.safe)), 0.0)

    def is_sound(self, s: Scalar) -> Flag:
        """Whether there is a rate at step `s`."""
        value = jax.lax.stop_gradient(self.model.alpha(s))
        return jnp.isfinite(value) & (value >= 0)


def find_breaks(rate: Usable, start: Scalar, end: Scalar, most: int) -> Float[Array, " most"]:
    """Where a rate jumps or has a kink between `start` and `end`, as far as that is seen.

    A stretch is rough where Gauss's rule on it is not that on its halves. The roughest of many are
    halved until rounding; no derivative comes of it.

    **Returns:** at most `most`, increasing, padded with infinity.
    """
    dtype = start.dtype
    x, w = (jnp.asarray(y, dtype) for y in GAUSS)
    integral = lambda a, b: (b - a) * (w @ at_all(rate, a + (b - a) * x))

    def roughness(a, b):
        middle = 0.5 * (a + b)
        return jnp.abs(integral(a, middle) + integral(middle, b) - integral(a, b))

    # a schedule changes at whole steps, which no edge of a stretch must be
    edges = start + (end - start) * jnp.linspace(0.0, 1.0, _STRETCHES + 1, dtype=dtype)
    edges = edges - (end - start) * (0.382 / _STRETCHES)
    a, b = jnp.maximum(edges[:-1], start), edges[1:]
    rough = jax.vmap(roughness)(a, b)
    scale = jnp.max(jax.vmap(integral)(a, b))
    rough, at = jax.lax.top_k(rough, most)
    a, b = a[at], b[at]

    def halve(_, ends):
        a, b = ends
        middle = 0.5 * (a + b)
        left = jax.vmap(roughness)(a, middle) > jax.vmap(roughness)(middle, b)
        return jnp.where(left, a, middle), jnp.where(left, middle, b)

    _, found = jax.lax.fori_loop(0, _HALVINGS, halve, (a, b))
    whole = jnp.round(found)
    found = jnp.where(jnp.abs(found - whole) < 1e-4, whole, found)
    seen = rough > max(1e-9, 50.0 * float(jnp.finfo(dtype).eps)) * scale
    return jnp.sort(jnp.where(seen & (found > start) & (found < end), found, jnp.inf))


def in_short_panels(
    rate: Usable, ends: Float[Array, " n_plus_1"]
) -> tuple[Float[Array, " n"], Bool[Array, " n"]]:
    """The integral of a rate over each of n cells in panels no longer than an optimizer step.

    However long the cells are: what another rule gives is held against it. No derivative.

    **Returns:** also whether the rate was finite and not negative in each.
    """
    width = jnp.diff(ends)
    count = jnp.ceil(jnp.max(width)).astype(int)
    x, w = (jnp.asarray(y, ends.dtype) for y in GAUSS)

    def add(k, found):
        total, least, most = found
        part = width / count.astype(width.dtype)
        s = (ends[:-1] + k.astype(width.dtype) * part)[:, None] + part[:, None] * x[None]
        alpha = at_all(rate.model.alpha, s)
        total = total + part * (jnp.where(jnp.isfinite(alpha) & (alpha > 0), alpha, 0.0) @ w)
        return total, jnp.minimum(least, jnp.min(alpha, 1)), jnp.maximum(most, jnp.max(alpha, 1))

    like = lambda x: jnp.full(width.shape, x, width.dtype)
    total, least, most = jax.lax.fori_loop(0, count, add, (like(0.0), like(jnp.inf), like(0.0)))
    return total, is_sound(least, most)
