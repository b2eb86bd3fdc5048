"""Product integration: a kernel's weights for a feature that is linear between grid points."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._kernel import AbstractKernel
from .._types import Flag, Scalar

# Exact to rounding from the second cell on, whose distance from a singular lag 0 is its width:
# the error falls like (3 + sqrt 8)^(-2 nodes).
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)
GAUSS = (0.5 + 0.5 * _NODES, 0.5 * _WEIGHTS)  # on [0, 1]
_CHUNK = 4096


class Weights(eqx.Module):
    r"""The moment at the grid point n is $\sum_{l<n} w_l f_{n-l} + e_n f_0$.

    - `lags`: $w_l$ for l = 0..N-1.
    - `first`: $e_n$ for n = 1..N.
    - `sound`: whether the kernel was finite, and not negative if it is the user's, at every sample.
    """

    lags: Float[Array, " n"]
    first: Float[Array, " n"]
    sound: Flag

    @classmethod
    def of(cls, kernel: AbstractKernel, h: Scalar, steps: int) -> "Weights":
        r"""Those of `steps` cells of width `h`: Diethelm, Ford & Freed (2004) for any kernel.

        In the first cell $\int K$ is the kernel's own integral, and $\int K(s) s$ a double
        exponential rule (Takahasi & Mori, 1974), which no power of s at 0 disturbs.
        """
        x, w = (jnp.asarray(y, h.dtype) for y in GAUSS)

        def cells(j):
            values = kernel.evaluate((j.astype(h.dtype)[:, None] + x[None]) * h)
            near, far = h * (values @ (w * (1.0 - x))), h * (values @ (w * x))
            return near, far, kernel.is_sound(values).all(axis=1)

        near, far, sound = by_chunks(cells, steps)
        x, w = (jnp.asarray(y, h.dtype) for y in _double_exponential())
        values = kernel.evaluate(x * h)
        first = h * (values @ (w * x))
        far = far.at[0].set(first)
        near = near.at[0].set(kernel.integral(h) - first)
        lags = near.at[1:].add(far[:-1])
        sound = sound.all() & kernel.is_sound(values).all() & jnp.isfinite(near[0])
        return cls(lags, far, sound)


def sampled_lags(h: float, steps: int) -> np.ndarray:
    """Where a kernel was evaluated."""
    cells = (np.arange(steps)[:, None] + GAUSS[0][None]) * h
    return np.concatenate([_double_exponential()[0] * h, cells.ravel()])


def by_chunks(f: Callable[[Int[Array, " c"]], Any], count: int) -> Any:
    """`f(0..count-1)`, whose results have that leading axis, without room for all at once."""
    size = min(count, _CHUNK)
    chunks = -(-count // size)
    out = jax.lax.map(f, jnp.arange(chunks * size).reshape(chunks, size))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], out)


def _double_exponential() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1]; nothing is missed below 1e-17 of a function that is 0 at 0."""
    y, step = np.linspace(-3.2, 3.2, 65, retstep=True)
    x = 1.0 / (1.0 + np.exp(-np.pi * np.sinh(y)))
    complement = 1.0 / (1.0 + np.exp(np.pi * np.sinh(y)))
    return x, step * np.pi * np.cosh(y) * x * complement
