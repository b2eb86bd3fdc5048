"""The right-hand side of an interpolating flow. (E9), (E11)"""

import dataclasses
from math import comb
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from .._barrier import differentiated_apart
from .._equation import Augmented, Fixed, cast, dtype_of
from .._optax_state import moments_from_optax, updated
from .._types import Moments, Objective, Path, Scalar, Theta
from .flow import InterpolatingFlow
from .state import Layout, layout_of


class FlowEquation(eqx.Module):
    """A flow on an objective, as an ODE in the optimizer steps s.

    Its state is an `Augmented`, in whose memory each moving leaf of the optimizer's state has the
    name of its path.

    - `weights`: of the increments of p steps (or strides) in the sum of (E9), shape `(p,)`. An
        array, so that with zeros at its end one program serves lower orders too.
    """

    model: InterpolatingFlow
    objective: Objective
    args: PyTree[Any]
    layout: Layout
    opt_state0: Any
    weights: Float[Array, " p"]

    @classmethod
    def of(
        cls, model: InterpolatingFlow, objective: Objective, args: PyTree[Any], theta: PyTree[Array]
    ) -> "FlowEquation":
        """The equation for parameters like `theta`, which are all that moves of them.

        **Raises:** `ValueError` if the optimizer cannot flow.
        """
        dtype = dtype_of(theta)
        tx = cast(model, dtype).optax()

        def step(g, opt_state, theta):
            with jax.numpy_dtype_promotion("standard"):
                return tx.update(g, opt_state, theta)

        weights = jnp.asarray(weights_of(model.order, model.order), dtype)
        layout, opt_state0 = layout_of(tx, theta, step, dtype)
        return cls(cast(model, dtype), objective, args, layout, opt_state0, weights)

    def start(self, theta0: PyTree[Array]) -> Augmented:
        """The state at s = 0: the optimizer's own."""
        rest = jax.tree.map(lambda x: None, theta0)
        return Augmented(theta0, self.layout.memory(self.opt_state0), Fixed(rest))

    def loss(self, theta: Theta) -> Scalar:
        """The objective."""
        return self.objective(theta) if self.args is None else self.objective(theta, self.args)

    def gradient(self, theta: PyTree[Array], fixed: Any = None) -> PyTree[Array]:
        """The gradient of the objective."""
        del fixed
        return differentiated_apart(jax.grad(lambda theta: self.loss(theta)), theta)

    def read(self, memory: dict[str, Array]) -> Moments:
        """The raw moments that the optimizer's state has by the usual names."""
        return moments_from_optax(self.layout.opt_state(memory))

    def unpack(self, s: Any, y: Augmented) -> tuple[Theta, Moments]:
        """`(theta, moments)` of a state."""
        del s
        return y.theta, self.read(y.memory)

    def times(self, ts: Path, edges: Any) -> None:
        """The papers' time, which an optax transformation does not tell."""
        del ts, edges

    def clamped(self, y: Augmented) -> Augmented:
        """The state with second moments at 0 where they are below."""
        return dataclasses.replace(y, memory=self.layout.clamped(y.memory))

    def settled(self, s: Scalar, y: Augmented) -> Augmented:
        """The state with its counters a whole number of steps from s, without their rounding.

        A schedule may jump at a whole number, and have another value a rounding before it.
        """

        def whole(x):
            near = s.astype(x.dtype) + jnp.round(x - s.astype(x.dtype))
            close = 1e-3 + 8 * jnp.finfo(x.dtype).eps * jnp.abs(x)
            return jnp.where(jnp.abs(x - near) < close, near, x)

        counts = dict(zip(self.layout.names, self.layout.counts, strict=True))
        memory = {name: whole(x) if counts[name] else x for name, x in y.memory.items()}
        return dataclasses.replace(y, memory=memory)

    def step(self, y: Augmented) -> tuple[Augmented, Augmented]:
        """The state after a step of the optimizer, and the increments that lead there.

        Those of theta are the optimizer's updates themselves: differences of parameters would be
        rounding in single precision.
        """
        tx, before = self.model.optax(), self.layout.opt_state(y.memory)

        def update(g, theta, opt_state):
            updates, opt_state = tx.update(g, opt_state, theta)
            return updates, optax.apply_updates(theta, updates), opt_state

        g = self.gradient(y.theta)
        # optax mixes its counts with floats, also where the user wants no promotion
        with jax.numpy_dtype_promotion("standard"):
            given = g, y.theta, before
            made = updated(eqx.filter_closure_convert(update, *given), *given)
        updates, theta, after = made
        old, new = self.layout.memory(before), self.layout.memory(after)
        new = {name: x.astype(old[name].dtype) for name, x in new.items()}
        updates = jax.tree.map(lambda u, x: jnp.asarray(u, x.dtype), updates, y.theta)
        increments = {name: x - old[name] for name, x in new.items()}
        return Augmented(theta, new, y.fixed), Augmented(updates, increments, y.fixed)

    def steps(self, y: Augmented, count: Any) -> Augmented:
        """The state after so many steps of the optimizer."""
        return jax.lax.fori_loop(0, count, lambda _, y: self.step(y)[0], y)

    def __call__(self, s: Any, y: Augmented, args: Any) -> Augmented:
        """The vector field, as diffrax calls it."""
        del s, args
        return self.velocity(y)

    def velocity(self, y: Augmented) -> Augmented:
        """The sum of differences (E9), (E11)."""
        q = self.model.stride
        weights = jnp.repeat(self.weights, q) / q

        def add(carry, weight):
            y, total = carry
            y, increments = self.step(y)
            scaled = lambda f, u: f + weight.astype(u.dtype) * u
            return (y, jax.tree.map(scaled, total, increments)), None

        y = self.clamped(y)
        nothing = jax.tree.map(jnp.zeros_like, y)
        (_, total), _ = jax.lax.scan(add, (y, nothing), weights)
        return total


def weights_of(order: int, highest: int) -> np.ndarray:
    r"""The weights of the increments $\Phi^{i+1} z - \Phi^i z$ in the sum of (E9).

    Shape `(highest,)`, with zeros beyond the order.

    $\Delta^j z = \sum_i (-1)^{j-1-i} \binom{j-1}{i} (\Phi^{i+1} z - \Phi^i z)$.
    """
    sums = [sum(comb(j - 1, i) / j for j in range(i + 1, order + 1)) for i in range(order)]
    return np.pad(np.array(sums) * (-1.0) ** np.arange(order), (0, highest - order))
