"""Adam."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from .._checks import check_option, is_concrete, is_positive
from .._kernel import Exponential, Memory
from .base import (
    AbstractModel,
    as_finite,
    as_learning_rate,
    as_positive,
    identity,
    safe_sqrt,
    square,
    valid_common,
)
from .decay import RATES, Decay


class Adam(AbstractModel):
    r"""Adam (and AdamW) as an integro-differential equation. (E4)

    $$\mathrm{direction} = \frac{m/(1-b_1^s)}{\sqrt{v/(1-b_2^s)} + \epsilon}, \qquad
      m' = r_1 (g - m), \quad v' = r_2 (g^2 - v)$$

    Source: Heredia (2024), arXiv:2411.09734. At s = 0 the quotients are taken in their limit. At
    `b1` = 0 the first correction is 1.

    **Arguments:**

    - `learning_rate`: a positive scalar per step, or a schedule: any optax schedule, or an
        [`idemodels.Schedule`][].
    - `b1`, `b2`: the decays of the two moments, in [0, 1). `b2` = 0 starts with an infinite
        velocity and must be known, not traced.
    - `eps`: added to the root; positive.
    - `rate`: how fast the kernels forget, per step: `"paper"`, $1 - b$, or `"matched"`,
        $-\ln b$, which is what the discrete recursion does; 4 to 5 times nearer to it.
    - `reading`: `"causal"`, both moments at s, as the paper writes it; `"advanced"`, the second one
        and its correction at s + 1, as the algorithm has it, for [`idemodels.FixedPoint`][].
    - `l2`: the papers' $\lambda$: $(\lambda/2)\,\theta$ is added to the gradient.
    - `weight_decay`: decoupled, as in `optax.adamw`.

    **Raises:** `ValueError` for a decay outside [0, 1), `rate="matched"` with a decay of 0, a
    learning rate or `eps` that is not positive, an unknown `rate` or `reading`.
    """

    elementwise: ClassVar[bool] = True

    learning_rate: Any
    _b1: Decay
    _b2: Decay
    eps: Any
    l2: Any
    weight_decay: Any
    reading: str = eqx.field(static=True)
    _remembers: bool = eqx.field(static=True)

    def __init__(
        self,
        learning_rate: Any,
        b1: Any = 0.9,
        b2: Any = 0.999,
        eps: Any = 1e-8,
        rate: str = "paper",
        *,
        reading: str = "causal",
        l2: Any = 0.0,
        weight_decay: Any = 0.0,
    ):
        check_option(rate, "rate", RATES)
        check_option(reading, "reading", ("causal", "advanced"))
        self.learning_rate = as_learning_rate(learning_rate)
        self._b1 = Decay(b1, "b1", rate)
        self._b2 = Decay(b2, "b2", rate)
        self.eps = as_positive(eps, "eps")
        self.l2 = as_finite(l2, "l2")
        self.weight_decay = as_finite(weight_decay, "weight_decay")
        self.reading = reading
        self._remembers = not is_concrete(b2) or bool(self._b2.complement < 1)

    @property
    def b1(self) -> Any:
        """The decay of the first moment."""
        return self._b1.value

    @property
    def b2(self) -> Any:
        """The decay of the second moment."""
        return self._b2.value

    @property
    def rate(self) -> str:
        """`"paper"` or `"matched"`."""
        return self._b1.rate_name

    @property
    def singular_start(self) -> bool:
        """True only at `b2` = 0, read at s; else both moments have a limit at s = 0."""
        return not self._remembers and self.reading == "causal"

    @property
    def _ahead(self) -> int:
        return int(self.reading == "advanced")

    def memories(self):
        """**Returns:** "m", of g, and "v", of its square. (E4)"""
        return {
            "m": Memory(Exponential(self._b1.rate), identity),
            "v": Memory(Exponential(self._b2.rate), square, ahead=self._ahead),
        }

    def fraction(self, s, theta, g, moments):
        """**Returns:** the corrected first moment, and the root of the corrected second. (E4)"""
        read_at = s + self._ahead
        root = lambda v, g: safe_sqrt(self._b2.corrected(read_at, v, g * g)) + self.eps
        numerator = jax.tree.map(lambda m, g: self._b1.corrected(s, m, g), moments["m"], g)
        return numerator, jax.tree.map(root, moments["v"], g)

    def swinging(self):
        """**Returns:** "m" and its rate, which must be at least a quarter of that of v. (E10)"""
        first, second = jnp.asarray(self._b1.rate), jnp.asarray(self._b2.rate)
        # the second moment forgets at most at its rate, and the velocity has its root
        sure = (second <= 4.0 * first) & (jnp.asarray(self.weight_decay) == 0)
        return "m", jnp.where(sure & (not callable(self.learning_rate)), first, 0.0)

    def scale_by(self):
        """**Returns:** `optax.scale_by_adam`."""
        return optax.scale_by_adam(self.b1, self.b2, self.eps)

    def valid(self):
        started = (self._b2.complement < 1) | (not self._remembers)
        decays = self._b1.valid() & self._b2.valid() & started
        return valid_common(self) & is_positive(self.eps) & decays
