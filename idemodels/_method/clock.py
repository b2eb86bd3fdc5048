"""The variable that a leg is integrated in: optimizer steps, or their logarithm."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._equation import Augmented, Equation
from .._types import Scalar
from .longest import LongestStep


class AbstractClock(eqx.Module):
    """A time t(s), with the equation and its state as they look in it."""

    equation: eqx.AbstractVar[Equation]

    @abc.abstractmethod
    def of(self, s: Any) -> Any:
        """t at the optimizer step s."""

    @abc.abstractmethod
    def longest(self, steps: float | None, origin: PyTree[Array]) -> LongestStep | None:
        """How long a step in t may be, on a path from `origin`.

        - `steps`: optimizer steps that it may be long; `None` does not say.
        """

    @abc.abstractmethod
    def expected(self, t0: Any, t1: Any, way: Scalar) -> Scalar:
        """How far theta goes in an optimizer step, where it goes `way` from `t0` to `t1`."""

    @abc.abstractmethod
    def at(self, t: Any, y: Augmented) -> tuple[Any, Augmented]:
        """s and the original state, of t and the state here."""

    @abc.abstractmethod
    def field(self) -> Any:
        """The vector field in t."""


class StepTime(AbstractClock):
    """t = s: nothing to translate."""

    equation: Equation

    def of(self, s):
        return s

    def longest(self, steps, origin):
        return LongestStep.of(self.equation.model, steps, origin)

    def expected(self, t0, t1, way):
        return pace(t0, t1, way)

    def at(self, t, y):
        return t, y

    def field(self):
        return self.equation


class LogTime(AbstractClock):
    r"""$t = \ln(s - s_0)$, for starts where the velocity grows like $1/\sqrt{s - s_0}$.

    There theta is smooth in $\sqrt{s - s_0} = e^{t/2}$, and so is the mean growth
    $q = (z - z_0)/(s - s_0)$ of each memory, which stands in the place of z:

    $$\frac{d\theta}{dt} = (s - s_0)\,\theta', \qquad \frac{dq}{dt} = z' - q$$

    The logarithm rather than the root, because eps makes a layer at $\sqrt s \approx \epsilon/|g|$
    whose width differs from component to component by many orders of magnitude.
    """

    equation: Equation
    origin: Scalar
    memory: dict[str, PyTree[Array]]

    def of(self, s):
        passed = s - self.origin
        started = passed > 0
        return jnp.where(started, jnp.log(jnp.where(started, passed, 1.0)), -jnp.inf)

    def longest(self, steps, origin):
        del steps, origin  # the whole stretch is one optimizer step
        return None

    def expected(self, t0, t1, way):
        # theta goes like the root of what has passed: from the pace here to one optimizer step
        return 2.0 * pace(t0, t1, way) * jnp.exp(-0.5 * t1)

    def at(self, t, y):
        passed = jnp.exp(t)
        memory = jax.tree.map(lambda z0, q: z0 + q * passed, self.memory, y.memory)
        return self.origin + passed, eqx.tree_at(lambda y: y.memory, y, memory)

    def field(self):
        return self._rates

    def start(self, y: Augmented, g: PyTree[Array]) -> Augmented:
        """The state here at `origin`, where it is `y` and the gradient `g`: there q = z'."""
        rates = self.equation.rates(self.origin, y, g, direction=g)  # the memories' alone
        return eqx.tree_at(lambda y: y.memory, y, rates.memory)

    def _rates(self, t: Any, y: Augmented, args: Any) -> Augmented:
        s, original = self.at(t, y)
        rates, passed = self.equation(s, original, args), jnp.exp(t)
        theta, velocity = jax.tree.map(lambda v: passed * v, (rates.theta, rates.velocity))
        memory = jax.tree.map(lambda rate, q: rate - q, rates.memory, y.memory)
        return Augmented(theta, memory, y.fixed, velocity)


def pace(t0: Any, t1: Any, way: Scalar) -> Scalar:
    """How far something goes in a unit of time, that goes `way` from `t0` to `t1`."""
    return way / jnp.where(t1 > t0, t1 - t0, 1.0)
