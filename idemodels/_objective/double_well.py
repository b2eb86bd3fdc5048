"""Two wells, level and tilted."""

from typing import Any

import jax.numpy as jnp

from .base import AbstractObjective, as_host, default


class DoubleWell(AbstractObjective):
    r"""$\sum_i \theta_i^4/4 - \theta_i^2/2$: minima at $\pm 1$, a maximum at 0.

    The non-convex test of Heredia (2024), with gradient $\theta(\theta^2 - 1)$; its starts are
    0.1, 0 and -0.1.
    """

    @property
    def theta0(self):
        """0.1, a scalar."""
        return default(0.1)

    def __call__(self, theta):
        squared = theta * theta
        return jnp.sum(0.25 * squared * squared - 0.5 * squared)


class TiltedDoubleWell(AbstractObjective):
    r"""$\sum_i (1-\theta_i)^2 + c\,(\theta_i^2-1)^2$: the follow-up's test, arXiv:2602.09101.

    The minimum is 1; for c = 1.5 and more there is another well near -1.

    **Arguments:**

    - `c`: a scalar, not negative.
    """

    c: Any

    def __init__(self, c: Any):
        self.c = as_host(c)

    @property
    def theta0(self):
        """-1.5, a scalar."""
        return default(-1.5)

    @property
    def minimum(self):
        """1, a scalar."""
        return default(1.0)

    def __call__(self, theta):
        wells = theta * theta - 1.0
        tilt = 1.0 - theta
        return jnp.sum(tilt * tilt + jnp.asarray(self.c, theta.dtype) * wells * wells)
