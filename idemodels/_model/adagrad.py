"""AdaGrad."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from .._checks import check_option, is_concrete, is_positive
from .._kernel import Constant, Memory
from .base import (
    AbstractModel,
    as_finite,
    as_learning_rate,
    as_positive,
    safe_sqrt,
    square,
    valid_common,
)
from .reading import READINGS


class AdaGrad(AbstractModel):
    r"""AdaGrad as an integro-differential equation. (E2)

    $$\mathrm{direction} = \frac{c(s)\, g}{\sqrt{\bar G} + \epsilon}, \qquad G' = g^2, \quad
      c(s) = \frac{1}{1 + s\,\texttt{lr\_decay}}$$

    Source: Heredia (2024), arXiv:2411.09734, where $\bar G = G(s+1)$.

    **Arguments:**

    - `learning_rate`: a positive scalar per step, or a schedule.
    - `eps`: added to the root; positive.
    - `reading`: `"closure"`, the next step's sum foretold from the gradient now,
        $\bar G = G + g^2$; `"causal"`, the sum now, $\bar G = G$; `"advanced"`, as the paper
        writes it, for the method [`idemodels.FixedPoint`][].
    - `lr_decay`: the learning rate's decay per step, not negative; as PyTorch's AdaGrad has it.
    - `l2`: the papers' $\lambda$: $(\lambda/2)\,\theta$ is added to the gradient.
    - `weight_decay`: decoupled, as in `optax.adamw`.

    **Raises:** `ValueError` for a learning rate or `eps` that is not positive, a negative
    `lr_decay`, an unknown `reading`.
    """

    elementwise: ClassVar[bool] = True

    learning_rate: Any
    eps: Any
    lr_decay: Any
    l2: Any
    weight_decay: Any
    reading: str = eqx.field(static=True)

    def __init__(
        self,
        learning_rate: Any,
        eps: Any = 1e-8,
        reading: str = "closure",
        lr_decay: Any = 0.0,
        *,
        l2: Any = 0.0,
        weight_decay: Any = 0.0,
    ):
        check_option(reading, "reading", READINGS)
        self.learning_rate = as_learning_rate(learning_rate)
        self.eps = as_positive(eps, "eps")
        self.lr_decay = as_finite(lr_decay, "lr_decay")
        if is_concrete(self.lr_decay) and self.lr_decay < 0:
            found = float(self.lr_decay)
            raise ValueError(f"Argument `lr_decay` must not be negative, but is {found}.")
        self.l2 = as_finite(l2, "l2")
        self.weight_decay = as_finite(weight_decay, "weight_decay")
        self.reading = reading

    @property
    def singular_start(self) -> bool:
        """True for the causal reading: G starts at 0 and divides."""
        return self.reading == "causal"

    def memories(self):
        """**Returns:** "G", the integral of the squared gradient. (E2)"""
        return {"G": Memory(Constant(), square, ahead=int(self.reading == "advanced"))}

    def fraction(self, s, theta, g, moments):
        """**Returns:** the gradient times c(s), and the root of the sum of its squares. (E2)"""
        c = 1.0 / (1.0 + s * self.lr_decay)

        def root(G, g):
            return safe_sqrt(G + g * g if self.reading == "closure" else G) + self.eps

        return jax.tree.map(lambda g: c * g, g), jax.tree.map(root, moments["G"], g)

    def scale_by(self):
        """**Returns:** a transformation of our own, since optax's divides by sqrt(G + eps)."""
        return scale_by_adagrad(self.eps, self.lr_decay)

    def valid(self):
        decay = (self.lr_decay >= 0) & jnp.isfinite(self.lr_decay)
        return valid_common(self) & is_positive(self.eps) & decay


class ScaleByAdaGradState(NamedTuple):
    """The steps made, and the sums of squared gradients."""

    count: Any
    accumulator: Any


def scale_by_adagrad(eps: Any, lr_decay: Any) -> optax.GradientTransformation:
    r"""Divides by $\sqrt{G_{k+1}} + \epsilon$, the sum from 0, where $G_{k+1} = G_k + g_k^2$. (E2)

    `optax.scale_by_rss` has another place for eps, $1/\sqrt{G + \epsilon}$, and starts at 0.1.
    """

    def init(params):
        count = jnp.zeros((), jnp.int32)
        return ScaleByAdaGradState(count, jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        del params
        G = jax.tree.map(lambda G, g: G + g * g, state.accumulator, updates)
        c = lambda dtype: 1.0 / (1.0 + state.count.astype(dtype) * lr_decay)
        scaled = jax.tree.map(lambda g, G: c(g.dtype) * g / (jnp.sqrt(G) + eps), updates, G)
        return scaled, ScaleByAdaGradState(optax.safe_increment(state.count), G)

    return optax.GradientTransformation(init, update)
