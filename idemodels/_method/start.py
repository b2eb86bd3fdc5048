r"""What a singular kernel does to the velocity at s = 0, and how a quadrature is mended for it.

Where $K(s) \sim s^{a-1}$ the velocity has the powers $s^{ka}$, and an inertial model's pull begins
like $\sqrt s$. The trapezoid integrates such a power $\gamma < 1$ with an error of order
$h^{1+\gamma}$ that stays for all times. So the velocity is fitted, on the first few grid points, by
powers that include those, and what the trapezoid misses of each is added in every cell.

Source: the starting weights of Lubich (1986), "Discretized fractional calculus".
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._model import AbstractModel
from .._types import Count, Scalar
from .rate import weighed

_MOST = 3
# Two powers closer than this make the fit ill-conditioned: the second gives way to a larger one.
_APART = 0.05
# Breaks of the learning rate inside one cell that its dense output stops at.
_BREAKS = 8


class Mover(eqx.Module):
    r"""What theta, and the velocity of an inertial model, do in a cell of the grid.

    $\theta' = \alpha p$, or $\theta' = u,\ u'/2 + u = \alpha p$ (E6), where p is linear in the cell
    but for what the powers miss: exactly, whatever the learning rate $\alpha$ does in the cell.

    A *push* is the effect on each of the two of p at both ends of a cell and of each power's
    coefficient, which together are the cell's `sources`.
    """

    h: Scalar
    model: AbstractModel
    powers: "Powers"
    breaks: Float[Array, " b"]  # of the learning rate, in cells

    @property
    def inertial(self) -> bool:
        return self.model.inertial

    def pushes(self, steps: int) -> tuple[Float[Array, "n k q"], Bool[Array, " n"]]:
        """Of each of `steps` cells, and whether the learning rate is finite and not negative."""
        ends = jnp.arange(steps + 1).astype(self.h.dtype)
        return self._over(ends, jnp.arange(steps), jnp.ones((), self.h.dtype), self.breaks)

    def push_to(self, cell: Count, part: Scalar) -> Float[Array, "k q"]:
        """Of the first `part` of a cell, on the state there."""
        start = cell.astype(part.dtype)
        first = jnp.searchsorted(self.breaks, start, side="right")
        few = min(_BREAKS, self.breaks.size)
        breaks = jax.lax.dynamic_slice_in_dim(self.breaks, first, few)
        return self._over(jnp.stack([start, start + part]), cell[None], part, breaks)[0][0]

    def _over(
        self, ends: Array, cells: Array, part: Scalar, breaks: Array
    ) -> tuple[Float[Array, "n k q"], Bool[Array, " n"]]:
        def functions(i, x):
            x = part * x
            sources = [(1.0 - x)[..., None], x[..., None], self.powers.defect(cells[i], x)]
            sources = jnp.concatenate(sources, axis=-1)
            pushed = [k[..., None] * sources for k in self._kernels(part - x)]
            return jnp.concatenate(pushed, axis=-1)

        rate = lambda y: self.model.alpha(self.h * y)
        varies, crowded = self.model.scheduled, self.powers.singular
        out, sound = weighed(rate, ends, breaks, functions, varies=varies, crowded=crowded)
        return self.h * out.reshape(len(out), 1 + self.inertial, -1), sound

    def _kernels(self, rest: Array) -> tuple[Array, ...]:
        """How p moves theta, and u, in the `rest` of a cell."""
        if not self.inertial:
            return (jnp.ones_like(rest),)
        rest = 2.0 * self.h * rest
        return -jnp.expm1(-rest), 2.0 * jnp.exp(-rest)

    def __call__(self, state: tuple, push: Array, sources: Array, part: Any = 1.0) -> tuple:
        """The state `(theta,)` or `(theta, u)` one cell, or `part` of one, later.

        **Arguments:**

        - `sources`: p at both ends of the cell, and the coefficients of the powers.
        """
        gained = push @ sources
        if not self.inertial:
            return (state[0] + gained[0],)
        theta, u = state
        lost = -jnp.expm1(-2.0 * self.h * part)  # of u, and half of it is the way it carries
        return theta + 0.5 * lost * u + gained[0], u - lost * u + gained[1]


class Powers(eqx.Module):
    r"""The powers $\gamma$ of $x = s/h$ that the velocity is fitted with: 0, 1 and the singular.

    On as many grid points, the first of which is 0.
    """

    exponents: Float[Array, " g"]

    @classmethod
    def of(cls, model: AbstractModel, steps: int, dtype: Any) -> "Powers":
        """Those that `model` needs, or as many as `steps` + 1 points determine."""
        wanted: list[Any] = [0.5] if model.inertial else []
        for memory in model.memories().values():
            a = memory.kernel.exponent
            if not (isinstance(a, int | float) and a >= 1):
                wanted += [k * a for k in (1, 2, 3)]
        chosen: list[Any] = [jnp.zeros((), dtype), jnp.ones((), dtype)]
        if not wanted:
            return cls(jnp.stack(chosen))
        candidates = jnp.sort(jnp.stack([jnp.asarray(power, dtype) for power in wanted]))
        for candidate in candidates:
            near = jnp.min(jnp.abs(jnp.stack(chosen) - candidate)) < _APART
            chosen.append(jnp.where(near | (candidate > 1.9), jnp.inf, candidate))
        singular = jnp.sort(jnp.stack(chosen[2:]))[:_MOST]
        spare = 2.0 + jnp.arange(singular.size, dtype=dtype)
        singular = jnp.where(singular < 2.0, singular, spare)
        return cls(jnp.concatenate([jnp.stack(chosen[:2]), singular])[: steps + 1])

    @property
    def last(self) -> int:
        """The last of the grid points that the fit uses."""
        return self.exponents.size - 1

    @property
    def singular(self) -> bool:
        """Whether there are others than 0 and 1."""
        return self.exponents.size > 2

    def at(self, x: Float[Array, "*x"]) -> Float[Array, "*x g"]:
        r"""$x^\gamma$ for all of them; $0^0 = 1$."""
        started = (x > 0)[..., None]
        base = jnp.where(started, x[..., None], 1.0)
        exponents = self.exponents.reshape((1,) * x.ndim + (-1,))
        zero = jnp.where(exponents == 0, 1.0, 0.0).astype(x.dtype)
        return jnp.where(started, base**exponents, zero)

    def fit(self, values: Float[Array, "g p"]) -> Float[Array, "g p"]:
        """The coefficients, from the values on the first grid points."""
        points = jnp.arange(self.exponents.size, dtype=values.dtype)
        return jnp.linalg.solve(self.at(points), values)

    def defect(self, cell: Int[Array, " n"], x: Float[Array, "n x"]) -> Float[Array, "n x g"]:
        """What linear interpolation misses of each power at the fractions `x` of cells.

        Past the points of the fit of those below 1 alone: the others would be extrapolated.
        """
        n = cell.astype(x.dtype)[:, None]
        near, far = self.at(n), self.at(n + 1.0)
        fraction = x[..., None]
        defect = self.at(n + x) - (1.0 - fraction) * near - fraction * far
        kept = (self.exponents < 1)[None, None] | (cell < self.last)[:, None, None]
        return jnp.where(kept, defect, 0.0)
