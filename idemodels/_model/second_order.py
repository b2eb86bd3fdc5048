"""Adam with inertia."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from .._checks import is_positive
from .._kernel import Memory, SecondOrder
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
from .decay import Decay


class SecondOrderAdam(AbstractModel):
    r"""Adam as an integro-differential equation of second order. (E6)

    $$\tfrac12 \theta'' + \theta' = -\alpha(s)\,\mathrm{direction}, \qquad
      \mathrm{direction} = \frac{m/(1-b_1^s)}{\sqrt{v/(1-b_2^s)} + \epsilon}$$

    where both moments have the kernel [`idemodels.SecondOrder`][] of their decay. (E7)

    Source: Heredia (2026), arXiv:2602.09101, with time counted in optimizer steps: there it is
    $(\alpha/2)\,\ddot\theta + \dot\theta$ in t.

    Below b = 1/2 the kernel changes its sign, and the second moment may fall below zero. It is
    read as zero there, as the paper does; the solve counts such steps, `stats["num_clamped"]`, and
    ends as `RESULTS.negative_second_moment`, with `stats["clamped_from"]`.
    `stats["positivity_guaranteed"]`, shape `(T,)`, tells up to where the paper's lemma excludes it
    (`moment_stays_positive`), as far as the gradient at `ts` tells: keep the path densely.

    **Arguments:**

    - `learning_rate`: a positive scalar per step, or a schedule.
    - `b1`, `b2`: the decays of the two moments, in (0, 1).
    - `eps`: added to the root; positive.
    - `velocity0`: $d\theta/dt$ at the start, in the papers' time t: for every component the same;
        $\theta'(0) = \alpha(0)$ `velocity0` per step.
    - `l2`: the papers' $\lambda$: $(\lambda/2)\,\theta$ is added to the gradient.
    - `weight_decay`: decoupled, as in `optax.adamw`.

    **Raises:** `ValueError` for a decay outside (0, 1), a learning rate or `eps` that is not
    positive, a `velocity0` that is not finite.
    """

    elementwise: ClassVar[bool] = True

    learning_rate: Any
    _b1: Decay
    _b2: Decay
    eps: Any
    velocity0: Any
    l2: Any
    weight_decay: Any

    def __init__(
        self,
        learning_rate: Any,
        b1: Any = 0.9,
        b2: Any = 0.999,
        eps: Any = 1e-8,
        velocity0: Any = 0.0,
        *,
        l2: Any = 0.0,
        weight_decay: Any = 0.0,
    ):
        self.learning_rate = as_learning_rate(learning_rate)
        self._b1 = Decay(b1, "b1", "paper", positive=True)
        self._b2 = Decay(b2, "b2", "paper", positive=True)
        self.eps = as_positive(eps, "eps")
        self.velocity0 = as_finite(velocity0, "velocity0")
        self.l2 = as_finite(l2, "l2")
        self.weight_decay = as_finite(weight_decay, "weight_decay")

    @property
    def b1(self) -> Any:
        """The decay of the first moment."""
        return self._b1.value

    @property
    def b2(self) -> Any:
        """The decay of the second moment."""
        return self._b2.value

    @property
    def singular_start(self) -> bool:
        """False: the velocity starts as it is told to."""
        return False

    @property
    def rough_start(self) -> bool:
        r"""True: the direction starts like $\sqrt s$."""
        return True

    @property
    def inertial(self) -> bool:
        """True: the velocity is a state. (E6)"""
        return True

    @property
    def nonnegative(self) -> tuple[str, ...]:
        """The second moment, whose kernel changes its sign below b = 1/2."""
        return ("v",)

    @property
    def positivity_ratio(self) -> Any:
        r"""$e^{-\pi/\rho}$ with $\rho = \sqrt{1 - 2 b_2}$; 0 where the kernel keeps its sign."""
        squared = 2.0 * self._b2.complement - 1.0  # rho^2
        changes = squared > 0
        ratio = jnp.exp(-jnp.pi / jnp.sqrt(jnp.where(changes, squared, 1.0)))
        return jnp.where(changes, ratio, 0.0)

    def moment_stays_positive(self, least: Any, most: Any) -> Any:
        r"""The paper's sufficient condition for v > 0, arXiv:2602.09101.

        **Arguments:**

        - `least`, `most`: the smallest and the largest $g^2$ of one component so far.

        **Returns:** whether $\min g^2 \ge$ `positivity_ratio` $\max g^2$: the kernel's first lobe
        outweighs all that is negative.
        """
        return least >= self.positivity_ratio.astype(least.dtype) * most

    def initial_velocity(self, theta):
        r"""**Returns:** $\theta'(0) = \alpha(0)$ `velocity0`, like `theta`."""

        def leaf(x):
            zero = jnp.zeros((), x.dtype)
            velocity = self.alpha(zero) * jnp.asarray(self.velocity0, x.dtype)
            return jnp.full_like(x, velocity)

        return jax.tree.map(leaf, theta)

    def memories(self):
        """**Returns:** "m", of g, and "v", of its square. (E7)"""
        return {
            "m": Memory(SecondOrder(complement=self._b1.complement), identity),
            "v": Memory(SecondOrder(complement=self._b2.complement), square),
        }

    def fraction(self, s, theta, g, moments):
        """**Returns:** the corrected first moment, and the root of the corrected second. (E6)"""
        # both moments grow like s^2, their corrections like s: the quotients vanish at s = 0
        corrected = lambda decay, z: decay.corrected(s, z, jnp.zeros_like(z))
        root = lambda v: safe_sqrt(corrected(self._b2, v)) + self.eps
        numerator = jax.tree.map(lambda m: corrected(self._b1, m), moments["m"])
        return numerator, jax.tree.map(root, moments["v"])

    def scale_by(self):
        """**Returns:** `optax.scale_by_adam`."""
        return optax.scale_by_adam(self.b1, self.b2, self.eps)

    def valid(self):
        decays = (self._b1.complement < 1) & (self._b2.complement < 1)
        decays = decays & self._b1.valid() & self._b2.valid()
        return valid_common(self) & is_positive(self.eps) & decays & jnp.isfinite(self.velocity0)
