"""RMSProp."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import optax

from .._checks import check_option, is_positive
from .._kernel import Exponential, Memory
from .base import (
    AbstractModel,
    as_finite,
    as_learning_rate,
    as_positive,
    safe_sqrt,
    square,
    valid_common,
)
from .decay import RATES, Decay
from .reading import READINGS


class RMSProp(AbstractModel):
    r"""RMSProp as an integro-differential equation. (E3)

    $$\mathrm{direction} = \frac{g}{\sqrt{\bar v} + \epsilon}, \qquad v' = r (g^2 - v)$$

    Source: Heredia (2024), arXiv:2411.09734, where $\bar v = v(s+1)$: the discrete algorithm
    updates its moment before it reads it.

    **Arguments:**

    - `learning_rate`: a positive scalar per step, or a schedule.
    - `decay`: $b$, the decay of the second moment, in [0, 1).
    - `eps`: added to the root (not under it); positive.
    - `reading`: `"closure"`, the next step's moment foretold from the gradient now,
        $\bar v = b v + (1-b) g^2$; `"causal"`, the moment now, $\bar v = v$, which starts like
        $\theta_0 - 2\alpha\sqrt{s/r}\,\mathrm{sign}\,g$; `"advanced"`, as the paper writes it,
        for the method [`idemodels.FixedPoint`][].
    - `rate`: how fast the kernel forgets, per step: `"paper"`, $r = 1 - b$, or `"matched"`,
        $r = -\ln b$.
    - `l2`: the papers' $\lambda$: $(\lambda/2)\,\theta$ is added to the gradient.
    - `weight_decay`: decoupled, as in `optax.adamw`.

    **Raises:** `ValueError` for a decay outside [0, 1), `rate="matched"` with a decay of 0, a
    learning rate or `eps` that is not positive, an unknown `reading` or `rate`.
    """

    elementwise: ClassVar[bool] = True

    learning_rate: Any
    _decay: Decay
    eps: Any
    l2: Any
    weight_decay: Any
    reading: str = eqx.field(static=True)

    def __init__(
        self,
        learning_rate: Any,
        decay: Any = 0.9,
        eps: Any = 1e-8,
        reading: str = "closure",
        rate: str = "paper",
        *,
        l2: Any = 0.0,
        weight_decay: Any = 0.0,
    ):
        check_option(reading, "reading", READINGS)
        check_option(rate, "rate", RATES)
        self.learning_rate = as_learning_rate(learning_rate)
        self._decay = Decay(decay, "decay", rate)
        self.eps = as_positive(eps, "eps")
        self.l2 = as_finite(l2, "l2")
        self.weight_decay = as_finite(weight_decay, "weight_decay")
        self.reading = reading

    @property
    def decay(self) -> Any:
        """The decay of the second moment."""
        return self._decay.value

    @property
    def rate(self) -> str:
        """`"paper"` or `"matched"`."""
        return self._decay.rate_name

    @property
    def singular_start(self) -> bool:
        """True for the causal reading: v starts at 0 and divides."""
        return self.reading == "causal"

    def memories(self):
        """**Returns:** "v", of the squared gradient. (E3)"""
        ahead = int(self.reading == "advanced")
        return {"v": Memory(Exponential(self._decay.rate), square, ahead=ahead)}

    def fraction(self, s, theta, g, moments):
        """**Returns:** the gradient, and the root of its second moment. (E3)"""

        def root(v, g):
            if self.reading == "closure":
                v = self._decay.value * v + self._decay.complement * g * g
            return safe_sqrt(v) + self.eps

        return g, jax.tree.map(root, moments["v"], g)

    def scale_by(self):
        """**Returns:** `optax.scale_by_rms` with the paper's place for eps."""
        return optax.scale_by_rms(self.decay, self.eps, eps_in_sqrt=False)

    def valid(self):
        return valid_common(self) & is_positive(self.eps) & self._decay.valid()
