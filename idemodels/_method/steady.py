"""When a path has come to rest."""

from typing import Any

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._equation import Augmented, Equation, cast, fraction_of, quotient
from .._types import Count, Flag, Scalar
from .norms import largest

# Nodes in ln(1 + u) for the way still to go; the integrand relaxes, and does not swing.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)
# A look costs two gradients: the next one waits until s has grown by this factor.
_PATIENCE = 1.05
# A secant that leads further than so many times the last step is no evidence of a minimum there.
_REACH = 1e3


class Watch(eqx.Module):
    """What is known of a path on the way.

    - `span`: the largest distance of any parameter from where it started.
    - `next`: before this step no look is taken.
    - `looks`: how many were; each costs two gradients.
    """

    span: Scalar
    next: Scalar
    looks: Count


class Steady(eqx.Module):
    r"""Whether what is still to come moves no parameter by more than `tol` times the path's range.

    A small gradient is not enough: on a plateau the second moment forgets, and the speed returns.
    Two displacements are bounded instead, and the smaller one counts, component by component:

    - $D = \int_s^N |\theta'|$ with the gradient held as it is, up to the end: what a plateau does.
    - $C + |g|/\kappa$ with $C = \int_s^N |\theta'|$ while the gradient is zero, as the momentum
        runs out, and $\kappa > 0$ the secant curvature along the last step: the way to the minimum.
        Or, where theta swings about it, twice the amplitude that the energy of
        [`idemodels.AbstractModel.swinging`][] still allows.

    - `origin`: theta where the path began.
    - `end`: N.
    """

    equation: Equation
    origin: PyTree[Array]
    end: Scalar
    tol: Any

    def begin(self, s: Any, y: Augmented) -> Watch:
        """**Returns:** what is known at the start of a leg."""
        return Watch(self._span(y), jnp.asarray(s), jnp.zeros((), int))

    def __call__(
        self, watch: Watch, y0: Augmented, s1: Any, y1: Augmented, kept: Flag
    ) -> tuple[Watch, Flag]:
        """**Returns:** what is known after a step, and whether the path is at rest at its end."""
        span = jnp.where(kept, jnp.maximum(watch.span, self._span(y1)), watch.span)
        small = self.tol * span
        slow = largest(jax.tree.map(jnp.subtract, y1.theta, y0.theta)) <= small
        look = kept & slow & (s1 >= watch.next) & (s1 < self.end)
        # a true branch under vmap too, where in most steps no lane looks
        rests = jax.lax.cond(
            eqxi.unvmap_any(look), lambda: look & self._rests(y0, s1, y1, small), lambda: look
        )
        after = jnp.where(look, _PATIENCE * s1, watch.next)
        return Watch(span, after, watch.looks + jnp.where(look, 1, 0)), rests

    def _span(self, y: Augmented) -> Scalar:
        return largest(jax.tree.map(jnp.subtract, y.theta, self.origin))

    def _rests(self, y0: Augmented, s: Any, y: Augmented, small: Scalar) -> Flag:
        g0, g = (self.equation.gradient(x.theta, x.fixed) for x in (y0, y))
        held = self._way(s, y, g)
        coasting = self._way(s, y, jax.tree.map(jnp.zeros_like, g))

        swing = self._swing(s, y, g)

        def leaf(x0, x, g0, g, held, coasting, swing):
            dx, dg = x - x0, g - g0
            bends = (dx * dg > 0) & (_REACH * jnp.abs(dg) >= jnp.abs(g))
            softness = jnp.abs(dx) / jnp.where(bends, jnp.abs(dg), 1.0)  # 1 / kappa
            secant = jnp.abs(g) * softness
            amplitude = jnp.sqrt(secant**2 + swing * softness)
            falls = jnp.minimum(coasting + secant, 2.0 * amplitude)
            falls = jnp.where(bends, falls, jnp.where(g == 0, coasting, jnp.inf))
            # a NaN is no rest
            return jnp.all((held <= small) | (falls <= small))

        flags = jax.tree.map(leaf, y0.theta, y.theta, g0, g, held, coasting, swing)
        return jnp.all(jnp.stack(jax.tree.leaves(flags)))

    def _swing(self, s: Any, y: Augmented, g: PyTree[Array]) -> PyTree[Array]:
        r"""$(\beta/r)\, m^2$ for each parameter, where theta swings; infinite where it does not."""
        equation, dtype = self.equation, jnp.result_type(s)
        known = cast(equation.model, dtype).swinging()
        if known is None or y.velocity is not None:
            return jax.tree.map(lambda g: jnp.full_like(g, jnp.inf), g)
        name, rate = known
        moment = equation.model.memories()[name].markov.read(y.memory[name])
        pull = equation.pull(s, y.theta, quotient(equation.fraction(s, y, g)))
        sure = rate > 0
        slowness = jnp.where(sure, 1.0 / jnp.where(sure, rate, 1.0), jnp.inf)
        return jax.tree.map(lambda p, m: slowness * jnp.abs(p * m), pull, moment)

    def _way(self, s: Any, y: Augmented, g: PyTree[Array]) -> PyTree[Array]:
        r"""$\int_s^N |\theta'|$ for each parameter while the gradient is `g` throughout."""
        equation, dtype = self.equation, jnp.result_type(s)
        span = jnp.log1p(self.end - s)
        x = 0.5 * span * (1.0 + jnp.asarray(_NODES, dtype))
        lags, weights = jnp.expm1(x), 0.5 * span * jnp.asarray(_WEIGHTS, dtype) * jnp.exp(x)

        def add(way, item):
            lag, weight = item
            moments = {}
            for name, m in equation.model.memories().items():
                feature = jax.tree.map(lambda h: h[None], m.of(g))
                moments[name] = m.markov.read(m.markov.propagate(y.memory[name], lag, feature))
            d = quotient(fraction_of(equation.model, s + lag, y.theta, g, moments))
            pull = equation.pull(s + lag, y.theta, d)
            return jax.tree.map(lambda w, p: w + weight * jnp.abs(p), way, pull), None

        start = jax.tree.map(jnp.zeros_like, g)
        if y.velocity is not None:  # which runs out within a step, (E6)
            start = jax.tree.map(lambda v: 0.5 * jnp.abs(v), y.velocity)
        way, _ = jax.lax.scan(add, start, (lags, weights))
        return way
