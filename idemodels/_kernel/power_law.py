"""Forgetting without a time scale."""

import jax.numpy as jnp
from jax.scipy.special import gammaln

from .._checks import as_hyperparameter, is_concrete
from .._types import Hyperparameter
from .base import AbstractKernel, as_lag


class PowerLaw(AbstractKernel):
    r"""$K(s) = s^{a-1}/\Gamma(a)$ for $s > 0$: the moment is the fractional integral of order a.

    Source: the Riemann-Liouville integral, as in Diethelm, "The Analysis of Fractional Differential
    Equations" (2010), definition 2.1; $a = 1$ is the kernel of AdaGrad. It has no finite state
    space: see [`idemodels.History`][] and [`idemodels.fit_exponentials`][].

    **Arguments:**

    - `a`: the order, a scalar, $0 < a \le 1$. Below 1 the kernel is infinite at lag 0, and its
        integral finite.

    **Raises:** `ValueError` if `a` is no scalar, or not as above.
    """

    a: Hyperparameter

    def __init__(self, a):
        self.a = as_hyperparameter(a, "a")
        if is_concrete(self.a) and not 0 < self.a <= 1:
            raise ValueError(f"Argument `a` must lie in (0, 1], but is {float(self.a)}.")

    @property
    def exponent(self):
        """The order, `a`."""
        return self.a

    def valid(self):
        """**Returns:** whether $0 < a \\le 1$."""
        return jnp.asarray((self.a > 0) & (self.a <= 1))

    def evaluate(self, lag):
        """**Returns:** the weights, in the shape of `lag` (in steps); unit step^(a-1)."""
        lag = as_lag(lag)
        a = jnp.asarray(self.a, lag.dtype)
        later = jnp.where(lag > 0, lag, 1.0) ** (a - 1.0) * jnp.exp(-gammaln(a))
        now = jnp.where(a < 1, jnp.inf, 1.0)
        return jnp.where(lag > 0, later, jnp.where(lag < 0, 0.0, now))

    def integral(self, lag):
        r"""**Returns:** $s^a/\Gamma(a+1)$."""
        lag = as_lag(lag)
        a = jnp.asarray(self.a, lag.dtype)
        later = jnp.where(lag > 0, lag, 1.0) ** a * jnp.exp(-gammaln(a + 1.0))
        return jnp.where(lag > 0, later, 0.0)
