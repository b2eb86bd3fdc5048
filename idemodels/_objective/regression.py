"""Regression on data that everybody can draw again."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from .base import AbstractObjective, as_host, default


class LinearRegression(AbstractObjective):
    r"""Mean squared error of $y = \theta x$: the regression of Heredia (2024).

    By default its data: 1000 samples of $y = 2x + N(0, 0.1)$ with x uniform on [0, 1], drawn by
    NumPy's legacy generator from the seed 42, x first.

    **Arguments:**

    - `x`, `y`: the data, shape `(n,)` each; both or neither.

    **Raises:** `ValueError` if only one is given, or the shapes differ.
    """

    x: Any
    y: Any

    def __init__(self, x: Any = None, y: Any = None):
        if x is None and y is None:
            draw = np.random.RandomState(42)
            x = draw.rand(1000)
            y = 2.0 * x + draw.normal(0.0, 0.1, 1000)
        self.x, self.y = _data(x, y, 1)

    @property
    def theta0(self):
        """0, a scalar."""
        return default(0.0)

    @property
    def minimum(self):
        """The least-squares solution, a scalar."""
        return default(jnp.vdot(self.x, self.y) / jnp.vdot(self.x, self.x))

    def __call__(self, theta):
        away = jnp.asarray(self.y, theta.dtype) - theta * jnp.asarray(self.x, theta.dtype)
        return jnp.mean(away * away)


class LogisticRegression(AbstractObjective):
    r"""Mean logistic loss of the labels $y = \pm 1$ under the scores $x \cdot \theta$.

    By default 200 samples of 5 normal features from `default_rng(0)`, x first, labelled by a noisy
    linear rule, so that the classes overlap and the minimum is finite.

    **Arguments:**

    - `x`: the features, shape `(n, d)`.
    - `y`: the labels, 1 or -1, shape `(n,)`; both or neither.

    **Raises:** `ValueError` if only one is given, or the shapes differ.
    """

    x: Any
    y: Any

    def __init__(self, x: Any = None, y: Any = None):
        if x is None and y is None:
            draw = np.random.default_rng(0)
            x = draw.normal(size=(200, 5))
            scores = x @ np.array([1.0, -2.0, 0.5, 0.0, 1.5])
            y = np.where(scores + draw.normal(scale=2.0, size=200) > 0, 1.0, -1.0)
        self.x, self.y = _data(x, y, 2)

    @property
    def theta0(self):
        """Zeros, shape `(d,)`."""
        return default(jnp.zeros(self.x.shape[1]))

    def __call__(self, theta):
        scores = jnp.asarray(self.x, theta.dtype) @ theta
        margins = jnp.asarray(self.y, theta.dtype) * scores
        return jnp.mean(jnp.logaddexp(0.0, -margins))


def _data(x: Any, y: Any, rank: int) -> tuple[Any, Any]:
    if x is None or y is None:
        missing = "x" if x is None else "y"
        raise ValueError(f"Arguments `x` and `y` must be given together, but `{missing}` is None.")
    x, y = as_host(x), as_host(y)
    if x.ndim != rank or y.shape != x.shape[:1]:
        wanted = "(n,) and (n,)" if rank == 1 else "(n, d) and (n,)"
        raise ValueError(
            f"Arguments `x` and `y` must have shapes {wanted}, but have {x.shape} and {y.shape}."
        )
    return x, y
