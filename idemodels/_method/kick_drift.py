"""A short step by splitting: memories at frozen parameters, parameters at frozen memories."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._equation import Augmented, fraction_of, quotient
from .._model import AbstractModel
from .._types import Flag, Scalar

# A step is short that is as long as the short ones but for rounding; and one that is almost so.
_ROUNDING, _LESS = 0.01, 0.98


def is_short(h: Any, short: float) -> Flag:
    """Whether a step of length `h` is one of the short ones.

    Its length is all that a step-size controller can tell a solver.
    """
    return jnp.abs(h - short) <= _ROUNDING * short


def not_short(h: Any, short: float) -> Scalar:
    """`h`, or a little less, so that it is not one of the short ones."""
    return jnp.where(is_short(h, short), _LESS * short, h)


class KickDrift(eqx.Module):
    r"""Half a step of the memories, a step of theta, half a step of the memories. (E1)

    Each memory is propagated exactly with the gradient held; theta moves with the moments and the
    learning rate of the middle. Of order 2, and as stable as the optimizer itself, which is this
    step of length 1 with its halves the other way round: it never fails where the run does not.

    Source: Strang (1968), doi:10.1137/0705041.

    - `half`: the memories in the middle, with the gradient of the start held.
    - `first`: the velocity at the start of the step, for its error.
    - `ahead`: theta at the end as the gradient at the start foretells it; where the direction does
        not read the gradient itself, theta at the end.
    """

    model: AbstractModel
    s: Scalar
    h: Scalar
    y0: Augmented
    g0: PyTree[Array]
    half: dict[str, PyTree[Array]]
    first: PyTree[Array]
    ahead: PyTree[Array]

    @classmethod
    def of(
        cls, model: AbstractModel, s: Any, h: Scalar, y0: Augmented, g0: PyTree[Array]
    ) -> "KickDrift":
        """The step up to where its one new gradient is needed, at `ahead`."""
        s = jnp.asarray(s, h.dtype)
        half = _kicked(model, y0.memory, 0.5 * h, g0)
        first = _velocity(model, s, y0.theta, g0, y0.memory)
        v = _velocity(model, s + 0.5 * h, y0.theta, g0, half)
        ahead = jax.tree.map(lambda x, v: x + h * v, y0.theta, v)
        return cls(model, s, h, y0, g0, half, first, ahead)

    def finished(self, g: PyTree[Array]) -> tuple["Short", PyTree[Array]]:
        """**Returns:** the path of the step, and theta's error at its end.

        The error is the distance to the trapezoidal rule, whose own is twice as large.

        **Arguments:**

        - `g`: the gradient at `ahead`.
        """
        model, s, h, x0 = self.model, self.s, self.h, self.y0.theta
        between = jax.tree.map(lambda a, b: 0.5 * (a + b), self.g0, g)
        middle = jax.tree.map(lambda a, b: 0.5 * (a + b), x0, self.ahead)
        # a gradient that grows within the step is divided by a moment that has seen it
        half = self.half
        if not has_momentum(model):
            half = _kicked(model, self.y0.memory, 0.5 * h, self.g0, g)
        v = _velocity(model, s + 0.5 * h, middle, between, half)
        theta = jax.tree.map(lambda x, v: x + h * v, x0, v)
        memory = _kicked(model, self.half, 0.5 * h, g)
        last = _velocity(model, s + h, theta, g, memory)
        apart = lambda a, v, b: (h / 3.0) * jnp.abs(0.5 * (a + b) - v)
        way = lambda v: jax.tree.map(lambda v: h * v, v)
        path = Short(self.y0, Augmented(theta, memory, self.y0.fixed), way(self.first), way(last))
        return path, jax.tree.map(apart, self.first, v, last)


class Short(eqx.Module):
    """The path between the ends of a short step: theta by Hermite's cubic, memories linear.

    - `first`, `last`: h times the velocity at either end.
    """

    y0: Augmented
    y1: Augmented
    first: PyTree[Array]
    last: PyTree[Array]

    def __call__(self, x: Scalar) -> Augmented:
        """The state at the fraction `x` of the step."""

        def cubic(a, b, va, vb):
            past, left = x * (1.0 - x) ** 2, x**2 * (1.0 - x)
            return a + x**2 * (3.0 - 2.0 * x) * (b - a) + past * va - left * vb

        ends = self.y0.theta, self.y1.theta
        theta = jax.tree.map(cubic, *ends, self.first, self.last)
        line = lambda a, b: a + x * (b - a)
        memory = jax.tree.map(line, self.y0.memory, self.y1.memory)
        return Augmented(theta, memory, self.y0.fixed)


def _kicked(model: AbstractModel, memory: Any, h: Scalar, *gradients: PyTree[Array]) -> Any:
    """The states of the memories after `h`, with the mean of what they see of `gradients` held."""
    mean = lambda *seen: jnp.mean(jnp.stack(seen), axis=0, keepdims=True)
    held = lambda m: jax.tree.map(mean, *map(m.of, gradients))
    memories = model.memories().items()
    return {name: m.markov.propagate(memory[name], h, held(m)) for name, m in memories}


def has_momentum(model: AbstractModel) -> bool:
    """Whether a memory is one of the gradient itself, so that theta may swing."""
    return bool(of_gradient(model))


def of_gradient(model: AbstractModel) -> set[str]:
    """The names of the memories of the gradient itself, whoever wrote the feature."""
    itself = lambda f: not jax.make_jaxpr(f)(0.0).eqns
    return {name for name, m in model.memories().items() if itself(m.feature)}


def _velocity(model: AbstractModel, s: Scalar, theta: Any, g: Any, memory: Any) -> PyTree[Array]:
    moments = {name: m.markov.read(memory[name]) for name, m in model.memories().items()}
    d = quotient(fraction_of(model, s, theta, g, moments))
    alpha = model.alpha(s)
    return jax.tree.map(lambda d, x: -alpha * (d + model.weight_decay * x), d, theta)
