"""The smallest loss whose minima are sharp and flat."""

import jax.numpy as jnp

from .base import AbstractObjective, default


class Factorization(AbstractObjective):
    r"""$(xy - 1)^2/2$: a valley of minima $xy = 1$ of sharpness $x^2 + y^2$.

    Gradient descent with a learning rate above $2/(x^2 + y^2)$ swings across the valley, and moves
    along it to where it is flat enough.
    """

    @property
    def theta0(self):
        """(3.2, 1.02/3.2), shape `(2,)`: of sharpness 10.3."""
        return default(jnp.array([3.2, 1.02 / 3.2]))

    @property
    def minimum(self):
        """(1, 1), shape `(2,)`: the flattest."""
        return default(jnp.ones(2))

    def __call__(self, theta):
        return (theta[0] * theta[1] - 1.0) ** 2 / 2
