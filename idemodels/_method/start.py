r"""What a singular kernel does to the velocity at s = 0, and how a quadrature is mended for it.

Where $K(s) \sim s^{a-1}$ the velocity has the powers $s^{ka}$, and an inertial model's pull begins
like $\sqrt s$. The trapezoid integrates such a power $\gamma < 1$ with an error of order
$h^{1+\gamma}$ that stays for all times. So the velocity is fitted, on the first few grid points, by
powers that include those, and what the trapezoid misses of each is added in every cell.

Source: the starting weights of Lubich (1986), "Discretized fractional calculus".
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._model import AbstractModel
from .._types import Scalar
from .cells import GAUSS, by_chunks

_MOST = 3
# Two powers closer than this make the fit ill-conditioned: the second gives way to a larger one.
_APART = 0.05


class Mover(eqx.Module):
    r"""One step of theta, and of the velocity of an inertial model, from the pull p at its ends.

    $\theta' = p$, or $\theta' = u,\ u'/2 + u = p$ (E6): exactly, for p linear in the step.
    """

    h: Scalar
    inertial: bool = eqx.field(static=True)

    def kernels(self, x: Array) -> tuple[Array, ...]:
        """How p at the fraction x of a step moves theta, and u, until its end."""
        if not self.inertial:
            return (jnp.ones_like(x),)
        rest = 2.0 * self.h * (1.0 - x)
        return -jnp.expm1(-rest), 2.0 * jnp.exp(-rest)

    def __call__(self, state: tuple, now: Array, then: Array, mend: tuple[Array, ...]) -> tuple:
        """The state `(theta,)` or `(theta, u)` one step later.

        **Arguments:**

        - `now`, `then`: p at the ends.
        - `mend`: what is missed of p, integrated against each of `kernels`.
        """
        x, w = (jnp.asarray(y, self.h.dtype) for y in GAUSS)
        gained = [
            self.h * ((k * w) @ (1.0 - x) * now + (k * w) @ x * then + more)
            for k, more in zip(self.kernels(x), mend, strict=True)
        ]
        if not self.inertial:
            return (state[0] + gained[0],)
        theta, u = state
        lost = -jnp.expm1(-2.0 * self.h)  # of the velocity, and half of it is the way it carries
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

    def missed(self, mover: Mover, steps: int) -> tuple[Float[Array, "n g"], ...]:
        """What linear interpolation misses of each power over each of `steps` cells.

        Past the points of the fit of those below 1 alone: the others would be extrapolated.
        """
        dtype = self.exponents.dtype
        small = (self.exponents < 1)[None, None]

        def over(x, w, n):
            ends = self.at(n)[:, None], self.at(n + 1.0)[:, None]
            fraction = x[None, :, None]
            inside = self.at(n[:, None] + x[None])
            defect = inside - (1.0 - fraction) * ends[0] - fraction * ends[1]
            defect = jnp.where(small | (n < self.last)[:, None, None], defect, 0.0)
            return tuple(jnp.einsum("nxg,x->ng", defect, k * w) for k in mover.kernels(x))

        x, w = (jnp.asarray(y, dtype) for y in GAUSS)
        later = by_chunks(lambda n: over(x, w, n.astype(dtype)), steps)
        # on the first cell in t = x^(1/8), where x^gamma is smooth enough for Gauss's rule
        t, w = np.polynomial.legendre.leggauss(32)
        t = 0.5 + 0.5 * t
        x, w = jnp.asarray(t**8, dtype), jnp.asarray(0.5 * w * 8 * t**7, dtype)
        first = over(x, w, jnp.zeros(1, dtype))
        return tuple(e.at[0].set(e0[0]) for e, e0 in zip(later, first, strict=True))
