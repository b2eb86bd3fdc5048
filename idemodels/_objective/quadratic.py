"""A parabola."""

from typing import Any

import jax.numpy as jnp

from .base import AbstractObjective, as_host, default


class Quadratic(AbstractObjective):
    r"""$\sum_i (c_i/2)\,(\theta_i - \theta^*_i)^2$; by default the convex test of Heredia (2024).

    **Arguments:**

    - `curvature`: $c$, a scalar or an array.
    - `minimum`: $\theta^*$, a scalar or an array.
    """

    curvature: Any
    minimum: Any

    def __init__(self, curvature: Any = 2.0, minimum: Any = 4.0):
        self.curvature = as_host(curvature)
        self.minimum = as_host(minimum)

    @property
    def theta0(self):
        """Ones; a scalar where curvature and minimum are."""
        return default(jnp.ones(jnp.broadcast_shapes(self.curvature.shape, self.minimum.shape)))

    def __call__(self, theta):
        away = theta - jnp.asarray(self.minimum, theta.dtype)
        return jnp.sum(0.5 * jnp.asarray(self.curvature, theta.dtype) * away * away)
