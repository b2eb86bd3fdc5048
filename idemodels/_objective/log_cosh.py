"""A parabola with straight arms."""

from typing import Any

import jax.numpy as jnp

from .base import AbstractObjective, as_host, default


class LogCosh(AbstractObjective):
    r"""$\sum_i \ln\cosh(\theta_i - \theta^*_i)$: the gradient is a hyperbolic tangent.

    **Arguments:**

    - `minimum`: $\theta^*$, a scalar or an array.
    """

    minimum: Any

    def __init__(self, minimum: Any = 0.0):
        self.minimum = as_host(minimum)

    @property
    def theta0(self):
        """3 away from the minimum."""
        return default(self.minimum + 3.0)

    def __call__(self, theta):
        away = theta - jnp.asarray(self.minimum, theta.dtype)
        return jnp.sum(jnp.logaddexp(away, -away) - jnp.log(jnp.asarray(2.0, theta.dtype)))
