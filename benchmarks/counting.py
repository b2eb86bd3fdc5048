"""How many gradients a solve really makes, where the solver does not tell."""

from typing import Any

import equinox as eqx
import jax


class Counted(eqx.Module):
    """An objective whose gradients are counted, each time that the compiled program makes one.

    A derivative of the gradient in one direction counts as one gradient: a dense Jacobian counts
    its columns, one a state of the augmented equation.
    """

    objective: Any
    counter: "Counter" = eqx.field(static=True)

    def __call__(self, theta):
        counter, objective = self.counter, self.objective

        @jax.custom_jvp
        def tick(g):
            jax.debug.callback(counter.bump)
            return g

        @tick.defjvp
        def _(primals, tangents):
            # an argument that is mapped over makes one call for each direction
            one = jax.tree.leaves(tangents[0])[0].ravel()[0]
            jax.debug.callback(counter.bump, one)
            return tick(*primals), tangents[0]

        @jax.custom_vjp
        def value(theta):
            return objective(theta)

        def forward(theta):
            loss, g = jax.value_and_grad(objective)(theta)
            return loss, tick(g)

        value.defvjp(forward, lambda g, scale: (jax.tree.map(lambda x: scale * x, g),))
        return value(theta)


class Counter:
    """A number that goes up."""

    def __init__(self):
        self.count = 0

    def bump(self, *_: Any) -> None:
        self.count += 1
