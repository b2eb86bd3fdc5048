"""How long the next step may be, beyond what the error of the last one says."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._model import AbstractModel
from .._types import Flag, Scalar

# The learning rate is sampled so often over a step, and no step is longer than so many optimizer
# steps: less than two of them lie between two samples.
_SAMPLES, _LONGEST = 64, 100.0
# Over a step the rate may vary by this part of its largest value there,
_VARIATION = 0.5
# but a step of this many optimizer steps is short enough for whatever it does.
_SHORTEST = 0.5


class LongestStep(eqx.Module):
    """How long a step in s may be.

    An error estimate knows what happens where a solver looks. Where the gradient is flat the steps
    grow, and what is new in s is stepped over: a burst in the learning rate, or an event. So the
    learning rate is sampled over every step that is proposed, and the step ends before it varies.

    - `model`: whose learning rate is sampled; `None` where it is a constant.
    - `longest`: in optimizer steps.
    """

    model: AbstractModel | None
    longest: Any

    @classmethod
    def of(cls, model: AbstractModel, longest: float | None) -> "LongestStep | None":
        """`None` where nothing is known that bounds a step."""
        if longest is None and not model.scheduled:
            return None
        return cls(model if model.scheduled else None, jnp.inf if longest is None else longest)

    def __call__(self, s: Scalar, h: Scalar) -> tuple[Scalar, Flag]:
        """At most `h` from `s` on; and whether the learning rate is finite there."""
        h = jnp.minimum(h, jnp.asarray(self.longest, h.dtype))
        if self.model is None:
            return h, jnp.ones((), bool)
        h = jnp.minimum(h, _LONGEST)
        fractions = jnp.linspace(0.0, 1.0, _SAMPLES + 1, dtype=h.dtype)
        rates = jax.lax.stop_gradient(jax.vmap(self.model.alpha)(s + h * fractions))
        varied = jnp.cumsum(jnp.abs(jnp.diff(rates)))
        calm = varied <= _VARIATION * jax.lax.cummax(jnp.abs(rates))[1:]
        fraction = jnp.sum(jnp.cumprod(calm)).astype(h.dtype) / _SAMPLES
        longest = jnp.maximum(fraction * h, jnp.minimum(h, _SHORTEST))
        return longest, jnp.all(jnp.isfinite(rates))
