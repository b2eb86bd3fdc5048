"""Nothing is forgotten."""

import jax.numpy as jnp

from .base import AbstractMarkovKernel, as_lag


class Constant(AbstractMarkovKernel):
    r"""The kernel of AdaGrad: $K(s) = 1$ for $s \ge 0$. (E2)

    Source: Heredia (2024), arXiv:2411.09734; the discrete twin is the running sum of squares of
    Duchi, Hazan & Singer (2011).
    """

    def evaluate(self, lag):
        """**Returns:** ones, in the shape of `lag`; zeros where it is negative."""
        lag = as_lag(lag)
        return jnp.where(lag < 0, 0.0, jnp.ones_like(lag))

    def integral(self, lag):
        """**Returns:** the lag itself."""
        lag = as_lag(lag)
        return jnp.where(lag < 0, 0.0, lag)

    def state_space(self):
        """**Returns:** the integrator, $z' = u$."""
        return jnp.zeros((1, 1)), jnp.ones(1), jnp.ones(1)

    def propagator(self, h, degree):
        r"""**Returns:** 1 and $h^{j+1}/(j+1)$."""
        h = as_lag(h)
        powers = [h ** (j + 1) / (j + 1) for j in range(degree + 1)]
        return jnp.ones((1, 1), h.dtype), jnp.stack(powers)[:, None]
