"""Forgetting at a constant rate."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import as_hyperparameter, check_positive, is_positive
from .._types import Hyperparameter
from .base import AbstractMarkovKernel, as_lag


class Exponential(AbstractMarkovKernel):
    r"""Exponential forgetting: $K(s) = d\, e^{-ds}$ for $s \ge 0$. (E5)

    Source: Heredia (2024), arXiv:2411.09734, with time counted in optimizer steps: $d = 1 - b$
    there, and $d = -\ln b$ for the rate that matches the discrete recursion. The discrete twin is
    the moving average of Kingma & Ba (2015), Algorithm 1.

    **Arguments:**

    - `rate`: $d$, a scalar, unit 1/step, positive. Not $b$ itself: 1 - float32(0.999) has only
        five right digits.

    **Raises:** `ValueError` if `rate` is no scalar, or not positive.
    """

    rate: Hyperparameter

    def __init__(self, rate):
        self.rate = as_hyperparameter(rate, "rate")
        check_positive(self.rate, "rate")

    def valid(self):
        """**Returns:** whether the rate is positive and finite."""
        return is_positive(jnp.asarray(self.rate))

    def evaluate(self, lag):
        """**Returns:** the weights, in the shape of `lag` (in steps); unit 1/step."""
        lag = as_lag(lag)
        rate = jnp.asarray(self.rate, lag.dtype)
        kept = rate * jnp.exp(-rate * jnp.where(lag < 0, 0.0, lag))  # (E5)
        return jnp.where(lag < 0, 0.0, kept)  # without the clamp above, NaN gradients

    def integral(self, lag):
        r"""**Returns:** $1 - e^{-ds}$."""
        lag = as_lag(lag)
        return -jnp.expm1(-jnp.asarray(self.rate, lag.dtype) * jnp.where(lag < 0, 0.0, lag))

    def state_space(self):
        r"""**Returns:** $z' = -d z + d u$, read as it is. (E5)"""
        rate = jnp.asarray(self.rate)
        return -rate.reshape(1, 1), rate.reshape(1), jnp.ones(1, rate.dtype)

    def propagator(self, h, degree):
        r"""**Returns:** $e^{-dh}$ and $d \int_0^h e^{-d(h-\tau)} \tau^j d\tau$, j = 0..`degree`."""
        h = as_lag(h)
        x = jnp.asarray(self.rate, h.dtype) * h
        powers = h ** jnp.arange(degree + 1, dtype=h.dtype) * (x * remembered_powers(x, degree))
        # the first without a division: with h = 1 it is the optimizer's own update, to rounding
        return jnp.exp(-x).reshape(1, 1), powers.at[0].set(-jnp.expm1(-x))[:, None]


def remembered_powers(x: Float[Array, "*n"], degree: int) -> Float[Array, "degree_plus_1 *n"]:
    r"""$\int_0^1 e^{-x(1-u)} u^j du$, j = 0..`degree`: to rounding for every $x \ge 0$."""
    # Integration by parts gives I_j = (1 - j I_{j-1})/x, which loses digits while x is small; there
    # the series of e^{xu}, whose terms are all positive.
    small = x < 8.0
    near = jnp.where(small, x, 1.0)
    k, j = np.arange(48), np.arange(degree + 1)
    shares = (1.0 / (k[None] + j[:, None] + 1)).astype(x.dtype)
    counts = np.maximum(k, 1).reshape((-1,) + (1,) * x.ndim).astype(x.dtype)
    terms = jnp.cumprod((near[None] / counts).at[0].set(1.0), axis=0)
    series = jnp.exp(-near)[None] * jnp.tensordot(shares, terms, 1, precision="highest")
    far = jnp.where(small, 8.0, x)
    recursion = [-jnp.expm1(-far)]
    for i in range(1, degree + 1):
        recursion.append(1.0 - i / far * recursion[-1])
    return jnp.where(small[None], series, jnp.stack(recursion) / far[None])
