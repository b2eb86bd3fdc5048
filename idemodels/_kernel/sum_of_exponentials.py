"""Several rates at once; what any other kernel is fitted with."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from .._checks import as_array, as_hyperparameter, is_concrete
from .._types import Hyperparameter
from .base import AbstractMarkovKernel, as_lag
from .exponential import powers_of, remembered_powers


class SumOfExponentials(AbstractMarkovKernel):
    r"""$K(s) = \sum_i w_i e^{-r_i s}$ for $s \ge 0$.

    **Arguments:**

    - `weights`: $w$, shape `(n,)`, unit 1/step. Note that `Exponential(d)` has the weight d.
    - `rates`: $r$, shape `(n,)`, unit 1/step, not negative; 0 never forgets.
    - `max_error`: where the sum stands for another kernel, how far it is from that one, as
        [`idemodels.fit_exponentials`][] measured it; otherwise None.

    **Raises:** `ValueError` if the two are no vectors of one length, or hold a value not as above.
    """

    weights: Hyperparameter
    rates: Hyperparameter
    max_error: Hyperparameter | None  # an array, so that another fit compiles nothing anew

    def __init__(self, weights, rates, max_error=None):
        self.weights = _as_vector(weights, "weights")
        self.rates = _as_vector(rates, "rates")
        self.max_error = None if max_error is None else as_hyperparameter(max_error, "max_error")
        if self.weights.shape != self.rates.shape:
            raise ValueError(
                "Arguments `weights` and `rates` must have the same length, but have "
                f"{self.weights.size} and {self.rates.size}."
            )
        if is_concrete(self.rates) and np.any(self.rates < 0):
            worst = float(np.min(self.rates))
            raise ValueError(f"Argument `rates` must not be negative, but has {worst}.")

    def valid(self):
        """**Returns:** whether the rates are not negative, and all is finite."""
        rates, weights = jnp.asarray(self.rates), jnp.asarray(self.weights)
        return jnp.all((rates >= 0) & jnp.isfinite(rates) & jnp.isfinite(weights))

    def evaluate(self, lag):
        """**Returns:** the weights, in the shape of `lag` (in steps); unit 1/step."""
        lag = as_lag(lag)
        products = jnp.multiply.outer(jnp.where(lag < 0, 0.0, lag), self._rates(lag.dtype))
        return jnp.where(lag < 0, 0.0, self._sum(jnp.exp(-products)))

    def integral(self, lag):
        r"""**Returns:** $\sum_i w_i (1 - e^{-r_i s})/r_i$; $w_i s$ where the rate is 0."""
        lag = as_lag(lag)
        s = jnp.where(lag < 0, 0.0, lag)
        products = jnp.multiply.outer(s, self._rates(lag.dtype))
        return s * self._sum(remembered_powers(products, 0)[0])

    def state_space(self):
        """**Returns:** one state for each term, with its weight at the input.

        So each state is a part of the moment, whatever its rate, and an error in it an error in the
        moment: at the output, weights of 1e6 beside fast rates would magnify a solver's tolerance.
        """
        rates, weights = jnp.asarray(self.rates), jnp.asarray(self.weights)
        return -jnp.diag(rates), weights, jnp.ones_like(weights)

    def propagator(self, h, degree):
        r"""**Returns:** $e^{-r_i h}$ and $w_i \int_0^h e^{-r_i(h-\tau)} \tau^j d\tau$."""
        h = as_lag(h)
        x, weights = self._rates(h.dtype) * h, jnp.asarray(self.weights, h.dtype)
        powers = h * powers_of(h, degree + 1)
        return jnp.diag(jnp.exp(-x)), powers[:, None] * weights[None] * remembered_powers(x, degree)

    def _rates(self, dtype):
        return jnp.asarray(self.rates, dtype)

    def _sum(self, terms):
        weights = jnp.asarray(self.weights, terms.dtype)
        return jnp.matmul(terms, weights, precision="highest")  # weights may cancel


def _as_vector(x: Any, name: str) -> Any:
    """A vector, in double on the host where it is known."""
    value = as_array(x, name, "a list of numbers")
    if value.ndim != 1 or value.size == 0:
        raise ValueError(
            f"Argument `{name}` must have one axis and a value, but has shape {tuple(value.shape)}."
        )
    if is_concrete(value) and not np.all(np.isfinite(value)):
        raise ValueError(f"Argument `{name}` must be finite, but is {value}.")
    return value
