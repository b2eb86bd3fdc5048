"""The variable that a leg is integrated in: optimizer steps, or their logarithm."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._equation import Augmented, Equation


class AbstractClock(eqx.Module):
    """A time t(s), with the equation and its state as they look in it."""

    equation: eqx.AbstractVar[Equation]

    @abc.abstractmethod
    def of(self, s: Any) -> Any:
        """t at the optimizer step s."""

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

    def at(self, t, y):
        return t, y

    def field(self):
        return self.equation


class LogTime(AbstractClock):
    r"""t = ln s, for starts where the velocity grows like $1/\sqrt s$.

    There theta is smooth in $\sqrt s = e^{t/2}$, and so is the running mean $q = z/s$ of each
    memory, which stands in the place of z:

    $$\frac{d\theta}{dt} = s\,\theta', \qquad \frac{dq}{dt} = z' - q$$

    The logarithm rather than the root, because eps makes a layer at $\sqrt s \approx \epsilon/|g|$
    whose width differs from component to component by many orders of magnitude.
    """

    equation: Equation

    def of(self, s):
        return jnp.log(s)

    def at(self, t, y):
        s = jnp.exp(t)
        return s, eqx.tree_at(lambda y: y.memory, y, jax.tree.map(lambda q: q * s, y.memory))

    def field(self):
        return self._rates

    def start(self, s: Any, y: Augmented, g: PyTree[Array]) -> Augmented:
        """The state here; at a tiny `s` after an empty start, q = z' as g stands there."""
        rates = self.equation.rates(0.0, y, g, direction=g)  # the memories' alone are wanted
        empty = jax.tree.leaves(jax.tree.map(lambda z: jnp.all(z == 0), y.memory))
        fresh = jnp.all(jnp.stack(empty))
        q = jax.tree.map(lambda rate, z: jnp.where(fresh, rate, z / s), rates.memory, y.memory)
        return eqx.tree_at(lambda y: y.memory, y, q)

    def _rates(self, t: Any, y: Augmented, args: Any) -> Augmented:
        s, original = self.at(t, y)
        rates = self.equation(s, original, args)
        theta, velocity = jax.tree.map(lambda v: s * v, (rates.theta, rates.velocity))
        memory = jax.tree.map(lambda rate, q: rate - q, rates.memory, y.memory)
        return Augmented(theta, memory, y.fixed, velocity)
