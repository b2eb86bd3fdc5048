"""How long the next step may be, beyond what the error of the last one says."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._equation import Augmented
from .._model import AbstractModel
from .._types import Flag, Scalar
from .norms import largest

# The learning rate is sampled so often over a step, and no step is longer than so many optimizer
# steps: less than two of them lie between two samples.
_SAMPLES, _LONGEST = 64, 100.0
# Over a step the rate may vary by this part of its largest value there,
_VARIATION = 0.75
# but a step of one optimizer step is short enough for whatever it does.
_SHORTEST = 1.0
# So much of its largest value a rate may be below zero.
_ROUNDING = 1e-6
# A step may move theta by this part of its range so far.
_SHARE = 0.25


class LongestStep(eqx.Module):
    """How long a step in s may be.

    An error estimate knows what happens where a solver looks. Where the gradient is flat the steps
    grow, and what is new in s is stepped over: a burst in the learning rate, or an event. So the
    learning rate is sampled over every step that is proposed, and the step ends before it varies.
    What a loss does within a step is not seen either: so theta moves by a part of its range only.

    - `model`: whose learning rate is sampled; `None` where it is a constant.
    - `longest`: in optimizer steps.
    - `origin`: theta where the path began.
    """

    model: AbstractModel | None
    longest: Any
    origin: PyTree[Array]

    @classmethod
    def of(
        cls, model: AbstractModel, longest: float | None, origin: PyTree[Array]
    ) -> "LongestStep":
        """Of at most `longest` optimizer steps; `None` does not say."""
        model_of_rate = model if model.scheduled else None
        return cls(model_of_rate, jnp.inf if longest is None else longest, origin)

    def range(self, y: Augmented) -> Scalar:
        """The largest distance of any parameter from where the path began."""
        return largest(jax.tree.map(jnp.subtract, y.theta, self.origin))

    def by_way(self, t0: Any, t1: Any, pace: Scalar, range: Scalar) -> Scalar:
        """The end of a step from `t0` on, at most `t1`, in which theta moves not too far.

        - `pace`: at which it moves.
        """
        known = (pace > 0) & (range > 0)
        longest = _SHARE * range / jnp.where(known, pace, 1.0)
        return jnp.where(known, jnp.minimum(t1, t0 + longest), t1)

    def __call__(self, s: Scalar, h: Scalar) -> tuple[Scalar, Flag]:
        """At most `h` from `s` on, as far as the rate is finite and not negative.

        **Returns:** also whether that is further than the first sample.
        """
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
        size = jnp.max(jnp.where(jnp.isfinite(rates), jnp.abs(rates), 0.0))
        good = jnp.isfinite(rates) & (rates >= -_ROUNDING * size)
        before = (jnp.sum(jnp.cumprod(good)) - 1).astype(h.dtype) / _SAMPLES
        longest = jnp.where(jnp.all(good), longest, jnp.minimum(longest, before * h))
        return longest, before > 0
