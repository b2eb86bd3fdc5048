"""A small real network on small real data."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .base import AbstractObjective, default


class DigitsMLP(AbstractObjective):
    """Cross entropy of a tanh network on scikit-learn's 1797 handwritten digits, the full batch.

    Pixels are divided by 16. The weights are drawn by `default_rng(0).normal`, first layer first,
    and divided by the root of the layer's inputs; biases are 0. 64-32-10 by default: 2410
    parameters.

    **Arguments:**

    - `hidden`: the widths of the hidden layers.

    **Raises:** `ImportError` without scikit-learn.
    """

    x: Float[np.ndarray | Array, "n 64"]
    y: Any
    hidden: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, hidden: Sequence[int] = (32,)):
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise ImportError(
                "`DigitsMLP` needs scikit-learn's data: pip install 'idemodels[run]'"
            ) from None
        pixels, self.y = load_digits(return_X_y=True)
        self.x = np.asarray(pixels) / 16.0
        self.hidden = tuple(int(width) for width in hidden)

    @property
    def theta0(self):
        """A list of `(weights, biases)`, shapes `(inputs, outputs)` and `(outputs,)`."""
        draw = np.random.default_rng(0)
        widths = (64, *self.hidden, 10)
        layers = []
        for inputs, outputs in pairwise(widths):
            weights = draw.normal(size=(inputs, outputs)) / np.sqrt(inputs)
            layers.append((default(weights), default(np.zeros(outputs))))
        return layers

    def logits(self, theta: Any, x: Any) -> Float[Array, "n 10"]:
        """The network's outputs for the images `x`, shape `(n, 64)`."""
        *hidden, last = theta
        out = jnp.asarray(x, last[0].dtype)
        for weights, biases in hidden:
            out = jnp.tanh(out @ weights + biases[None])
        return out @ last[0] + last[1][None]

    def __call__(self, theta):
        log_p = jax.nn.log_softmax(self.logits(theta, self.x))
        return -jnp.mean(jnp.take_along_axis(log_p, jnp.asarray(self.y)[:, None], axis=1))
