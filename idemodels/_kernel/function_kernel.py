"""The user's own kernel, and the check that a kernel is one."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._checks import is_concrete
from .base import AbstractKernel, as_lag

_SAMPLED = np.concatenate([[0.0], np.geomspace(1e-3, 1e4, 29)])


class FunctionKernel(AbstractKernel):
    r"""$K(s) = f(s)$ for $s \ge 0$, any function that JAX can trace.

    It has no state space: see [`idemodels.History`][] and [`idemodels.fit_exponentials`][].

    **Arguments:**

    - `f`: maps one lag, a scalar, in steps, to its weight, unit 1/step; not negative. It is applied
        to arrays by `jax.vmap`. An `eqx.Module` or a `jax.tree_util.Partial` keeps its arrays as
        trainable leaves.
    - `exponent`: $a$ in (0, 1], where $f(s) \sim s^{a-1}$ at small lags: 1 if it is finite there.
        Below 1 the kernel is infinite at lag 0 and `f` is not asked for its value there.

    **Raises:** `ValueError` if `f` does not return a scalar, or is NaN, infinite or negative at lag
    0 or at one of 29 lags from 1e-3 to 1e4 (where `f` is known; a traced one is not checked), or if
    `exponent` is not as above.
    """

    f: Callable[..., Any]
    order: float = eqx.field(static=True)

    def __init__(self, f, *, exponent=1.0):
        if not callable(f):
            raise ValueError(f"Argument `f` must be callable, but is {f!r}.")
        if not isinstance(exponent, (int, float, np.number)) or not 0 < exponent <= 1:
            raise ValueError(f"Argument `exponent` must lie in (0, 1], but is {exponent!r}.")
        self.f = f
        self.order = float(exponent)
        shape = jnp.shape(jax.eval_shape(lambda s: jnp.asarray(f(s)), jnp.ones(())))
        if shape != ():
            raise ValueError(
                f"Argument `f` must return a scalar for a scalar lag, but returns shape {shape}."
            )
        check_kernel(self, _SAMPLED, "f")
        self._check_exponent()

    def _check_exponent(self) -> None:
        """Raises if `f` grows faster at 0 than the exponent says: its integral would be wrong."""
        near, far = (self.evaluate(jnp.asarray(lag)) for lag in (1e-8, 1e-6))
        if not is_concrete((near, far)) or not (near > 0 and far > 0):
            return
        order = 1.0 + float(np.log(near / far) / np.log(1e-2))
        if order < self.order - 0.05:
            found = f"grows like s**{order - 1.0:.2f} at small lags"
            advice = f"Pass `exponent={order:.2f}`." if order > 0 else "Its integral is infinite."
            raise ValueError(
                f"Argument `f` must grow no faster than s**(a - 1) with a = `exponent`, "
                f"{self.order:g}, but {found}. {advice}"
            )

    @property
    def exponent(self):
        """The argument `exponent`."""
        return self.order

    @property
    def signed(self):
        """False."""
        return False

    def evaluate(self, lag):
        """**Returns:** `f` at every lag, in their shape; 0 where they are negative."""
        lag = as_lag(lag)
        allowed = lag > 0 if self.order < 1 else lag >= 0
        asked = jnp.where(allowed, lag, 1.0)
        values = jnp.asarray(jax.vmap(self.f)(asked.reshape(-1)), lag.dtype).reshape(lag.shape)
        return jnp.where(allowed, values, jnp.where(lag < 0, 0.0, jnp.inf))

    def integral(self, lag):
        r"""**Returns:** $\int_0^s f$, by 16 Gauss nodes on each of 40 octaves below s.

        On what is left, $[0, 2^{-40} s]$, by the one-point Gauss rule for the weight $x^{a-1}$. To
        1e-12 where f is smooth on each octave.
        """
        lag = as_lag(lag)
        s = jnp.where(lag < 0, 0.0, lag)
        later = jnp.where(s > 0, s, 1.0)
        nodes, weights = (jnp.asarray(x, lag.dtype) for x in _graded_rule(self.order))
        values = self.evaluate(jnp.multiply.outer(later, nodes))
        total = later * jnp.matmul(values, weights, precision="highest")
        return jnp.where(s > 0, total, 0.0)


def check_kernel(kernel: AbstractKernel, lags: Any, name: str = "kernel") -> None:
    """Raises unless a kernel is finite at `lags`, and a function of the user's not negative.

    At lag 0 a kernel may be infinite if its `exponent` says so. Traced values are not checked.

    **Raises:** `ValueError` with the lag and the value.
    """
    lags = np.asarray(lags, dtype=np.float64).reshape(-1)
    values = kernel.evaluate(jnp.asarray(lags))
    if not is_concrete((values, kernel.exponent)):
        return
    good, values = np.array(kernel.is_sound(values)), np.asarray(values)
    good |= bool(kernel.exponent < 1) & (lags == 0) & (values == np.inf)
    if np.all(good):
        return
    first = int(np.argmin(good))
    lag, value = float(lags[first]), float(values[first])
    must = "finite" if kernel.signed else "finite and not negative"
    advice = ""
    if lag == 0 and value == np.inf:
        advice = " If it grows like s**(a - 1) at small lags, pass `exponent=a`, 0 < a < 1."
    raise ValueError(
        f"Argument `{name}` must be {must}, but is {value:.3g} at lag {lag:.3g}.{advice}"
    )


def _graded_rule(a: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1], for functions like x^(a-1) at 0."""
    x, w = np.polynomial.legendre.leggauss(16)
    width = 2.0 ** -np.arange(1.0, 41.0)[:, None]  # of the octave that starts there
    first = width[-1] * a / (a + 1.0)
    nodes = np.concatenate([(width * (1.5 + x / 2.0)).ravel(), first])
    last = width[-1] ** a / a * first ** (1.0 - a)
    return nodes, np.concatenate([(width * w / 2.0).ravel(), last])
