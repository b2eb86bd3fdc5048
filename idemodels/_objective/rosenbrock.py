"""A curved valley."""

import jax.numpy as jnp

from .base import AbstractObjective, default


class Rosenbrock(AbstractObjective):
    r"""$(1-x)^2 + 100\,(y - x^2)^2$: Rosenbrock (1960), doi:10.1093/comjnl/3.3.175."""

    @property
    def theta0(self):
        """(-1.2, 1), shape `(2,)`."""
        return default(jnp.array([-1.2, 1.0]))

    @property
    def minimum(self):
        """(1, 1), shape `(2,)`."""
        return default(jnp.ones(2))

    def __call__(self, theta):
        x, y = theta[0], theta[1]
        along, across = 1.0 - x, y - x * x
        return along * along + 100.0 * across * across
