"""Forgetting at a constant rate."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import as_hyperparameter, check_positive, is_positive
from .._types import Hyperparameter, Scalar
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
        if degree == 0:  # with h = 1 it is the optimizer's own update, to rounding
            powers = -jnp.expm1(-x).reshape(1)
        else:
            powers = powers_of(h, degree + 1) * (x * remembered_powers(x, degree))
        return jnp.exp(-x).reshape(1, 1), powers[:, None]


def remembered_powers(x: Float[Array, "*n"], degree: int) -> Float[Array, "degree_plus_1 *n"]:
    r"""$\int_0^1 e^{-x(1-u)} u^j du$, j = 0..`degree`: to rounding for every $x \ge 0$."""
    # Integration by parts gives I_j = (1 - j I_{j-1})/x, which loses digits while x is small; there
    # it is read backwards, from the series of the last one, whose terms alternate and halve.
    limit = max(1.0, 0.5 * degree)
    small = x < limit
    near, far = jnp.where(small, x, limit), jnp.where(small, limit, x)
    last = jnp.ones_like(x)
    for k in range(_terms(limit, degree), 0, -1):
        last = 1.0 - near * (1.0 / (degree + 1 + k)) * last
    inverse = 1.0 / far
    backward = [last * (1.0 / (degree + 1))]
    forward = [(1.0 - jnp.exp(-far)) * inverse]  # without loss, where it counts
    for j in range(degree, 0, -1):
        backward.append((1.0 - near * backward[-1]) * (1.0 / j))
        forward.append((1.0 - (degree + 1 - j) * forward[-1]) * inverse)
    return jnp.stack([jnp.where(small, a, b) for a, b in zip(backward[::-1], forward, strict=True)])


def powers_of(h: Scalar, count: int) -> Float[Array, " count"]:
    """1, h, h², ...: by products, since a power with an array of exponents costs a logarithm."""
    return jnp.stack([h**j for j in range(count)])


def _terms(limit: float, degree: int) -> int:
    """How many the series at `limit` needs in double precision."""
    left, k = 1.0, 0
    while left > 1e-17:
        k += 1
        left *= limit / (degree + 1 + k)
    return k
