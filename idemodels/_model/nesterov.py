"""Nesterov's accelerated gradient, a prototype of the authors, for their experiments alone."""

import math
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from .._checks import check_option
from .._kernel import AbstractMarkovKernel, Memory
from .base import AbstractModel, as_finite, as_learning_rate, identity, valid_common

# By the number of steps made.
_MOMENTA = {"growing": lambda k: k / (k + 3.0), "constant": lambda k: jnp.full_like(k, 0.9)}


class Nesterov(AbstractModel):
    r"""Nesterov's method as $\theta'' + (3/s)\,\theta' + \alpha g = 0$, at rest at s = 0.

    Source: Su, Boyd & Candes (2014), arXiv:1503.01243, whose time is $t = \sqrt\alpha\,s$, as is
    that of the prototype in the repository of arXiv:2411.09734. As a memory equation it is

    $$\theta' = -\frac{\alpha}{s^3} \int_0^s u^3\, g(u)\, du, \qquad
      u^3 = s^3 - 3 s^2 (s-u) + 3 s (s-u)^2 - (s-u)^3$$

    **Arguments:**

    - `learning_rate`: a positive scalar per step; the equation is that of a constant one.
    - `momentum`: of the discrete twin: `"growing"`, k/(k + 3), whose limit the equation is; or
        `"constant"`, 0.9, as the prototype has it.

    **Raises:** `ValueError` for a learning rate that is not positive, or another momentum.
    """

    elementwise: ClassVar[bool] = True

    learning_rate: Any
    momentum: str = eqx.field(static=True)
    l2: Any
    weight_decay: Any

    def __init__(self, learning_rate: Any, momentum: str = "growing"):
        self.learning_rate = as_learning_rate(learning_rate)
        check_option(momentum, "momentum", tuple(_MOMENTA))
        self.momentum = momentum
        self.l2 = as_finite(0.0, "l2")
        self.weight_decay = as_finite(0.0, "weight_decay")

    @property
    def singular_start(self) -> bool:
        """False: it starts at rest."""
        return False

    def memories(self):
        """**Returns:** the gradient under the kernels 1, s, s^2 and s^3."""
        return {f"p{power}": Memory(Power(power), identity) for power in range(4)}

    def fraction(self, s, theta, g, moments):
        """**Returns:** the weighted mean of the gradient, over one."""
        started = s > 0
        over = 1.0 / jnp.where(started, s, 1.0)

        def mean(p0, p1, p2, p3):
            return jnp.where(started, p0 - over * (3.0 * p1 - over * (3.0 * p2 - over * p3)), 0.0)

        direction = jax.tree.map(mean, *(moments[f"p{power}"] for power in range(4)))
        return direction, jax.tree.map(jnp.ones_like, direction)

    def scale_by(self):
        """**Returns:** the accelerated step, of the points at which gradients are taken."""
        return _accelerated(_MOMENTA[self.momentum])

    def valid(self):
        return valid_common(self)


class Power(AbstractMarkovKernel):
    r"""The kernel $K(s) = s^n$ for $s \ge 0$: a chain of integrators."""

    power: int = eqx.field(static=True)

    def evaluate(self, lag):
        """**Returns:** powers of `lag`; zeros where it is negative."""
        lag = jnp.asarray(lag, jnp.result_type(float, jnp.result_type(lag)))
        return jnp.where(lag < 0, 0.0, lag**self.power)

    def integral(self, lag):
        r"""**Returns:** $s^{n+1}/(n+1)$."""
        lag = jnp.asarray(lag, jnp.result_type(float, jnp.result_type(lag)))
        return jnp.where(lag < 0, 0.0, lag ** (self.power + 1) / (self.power + 1))

    def state_space(self):
        """**Returns:** $z_0' = u$ and $z_i' = i z_{i-1}$, of which the last is read."""
        size = self.power + 1
        A = jnp.diag(jnp.arange(1.0, size), -1) if size > 1 else jnp.zeros((1, 1))
        return A, jnp.eye(size)[0], jnp.eye(size)[-1]

    def propagator(self, h, degree):
        """**Returns:** binomials and beta functions, by powers of `h`."""
        h = jnp.asarray(h)
        size = self.power + 1
        entry = lambda i, k: math.comb(i, k) * h ** (i - k) if k <= i else jnp.zeros_like(h)
        E = jnp.stack([jnp.stack([entry(i, k) for k in range(size)]) for i in range(size)])
        beta = lambda i, j: math.factorial(i) * math.factorial(j) / math.factorial(i + j + 1)
        gained = lambda i, j: beta(i, j) * h ** (i + j + 1)
        W = [jnp.stack([gained(i, j) for i in range(size)]) for j in range(degree + 1)]
        return E, jnp.stack(W)


class _AcceleratedState(NamedTuple):
    count: Any
    past: Any


def _accelerated(momentum: Any) -> optax.GradientTransformation:
    """y' = x' + mu (x' - x), with x' = y - lr g: as a step of y, by the sum of past gradients."""

    def init(params):
        return _AcceleratedState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        del params
        dtype = jnp.result_type(*[x.dtype for x in jax.tree.leaves(updates)])
        now, then = (momentum(jnp.asarray(state.count + i, dtype)) for i in (0, 1))
        past = jax.tree.map(lambda p, g: now * p + g, state.past, updates)
        step = jax.tree.map(lambda p, g: g + then * p, past, updates)
        return step, _AcceleratedState(optax.safe_increment(state.count), past)

    return optax.GradientTransformation(init, update)
