"""A memory with inertia: what is seen now weighs nothing yet, and most some steps later."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import as_hyperparameter, is_concrete
from .._types import Hyperparameter, Scalar
from .base import AbstractMarkovKernel, as_lag
from .exponential import remembered_powers

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)
_NODES, _WEIGHTS = (1.0 + _NODES) / 2.0, _WEIGHTS / 2.0  # on [0, 1]


class SecondOrder(AbstractMarkovKernel):
    r"""The damped oscillator's response: $m''/2 + m' + (1-b)\, m = (1-b)\, u$. (E8)

    For $b > 1/2$, with $\kappa = \sqrt{2b-1}$, (E7)

    $$K(s) = \frac{2(1-b)}{\kappa}\, e^{-s} \sinh(\kappa s), \qquad s \ge 0,$$

    at $b = 1/2$ its limit $2(1-b)\, s e^{-s}$, and below the sine, $\rho = \sqrt{1-2b}$ in the
    place of $\kappa$: there the kernel takes both signs, so that a memory of squares can fall below
    zero. One smooth function of $b$, and computed as one. Its whole weight is 1.

    Source: Heredia (2026), arXiv:2602.09101, here with time counted in optimizer steps.

    **Arguments:**

    - `b`: the decay, a scalar, $0 < b < 1$. Held as $1 - b$, taken in double where `b` is known:
        the slow rate is $2(1-b)/(1+\kappa)$, and float32(0.999) has only five right digits of it.
    - `complement`: $1 - b$ itself, in the place of `b`.

    **Raises:** `ValueError` if `b` or `complement` is no scalar, or not between 0 and 1, or if not
    one of them is given.
    """

    complement: Hyperparameter  # 1 - b

    def __init__(self, b=None, *, complement=None):
        if (b is None) == (complement is None):
            found = "neither is" if b is None else "both are"
            raise ValueError(f"Argument `b`, or `complement`, must be given, but {found}.")
        name = "b" if complement is None else "complement"
        value = as_hyperparameter(b if complement is None else complement, name)
        known = is_concrete(value)
        if known and not 0 < value < 1:
            raise ValueError(f"Argument `{name}` must lie in (0, 1), but is {float(value)}.")
        rest = value if b is None else 1.0 - value
        self.complement = np.asarray(rest) if known else rest

    @property
    def b(self):
        """The decay, back from `complement`."""
        return 1.0 - self.complement

    def valid(self):
        """**Returns:** whether $0 < b < 1$."""
        return jnp.asarray((self.complement > 0) & (self.complement < 1))

    def evaluate(self, lag):
        """**Returns:** the weights, in the shape of `lag` (in steps); unit 1/step."""
        lag = as_lag(lag)
        c, _ = self._constants(lag.dtype)
        _, response, _ = self._flow(jnp.where(lag < 0, 0.0, lag))
        return jnp.where(lag < 0, 0.0, 2.0 * c * response)  # (E7)

    def integral(self, lag):
        r"""**Returns:** $1 - e^{-s} (\cosh \kappa s + \sinh(\kappa s)/\kappa)$, to rounding."""
        lag = as_lag(lag)
        s = jnp.where(lag < 0, 0.0, lag)
        c, delta = self._constants(s.dtype)
        early, slow = s < 4.0, c < 0.2

        # e^s - cosh - sinh/kappa = sum of (1 - delta^n) (s^2n/(2n)! + s^(2n+1)/(2n+1)!), and
        # 1 - delta^n = 2c (1 + delta + ... + delta^(n-1)): no term is negative.
        near = jnp.where(early, s, 1.0)
        term, power_sum, series = jnp.ones_like(s), jnp.zeros_like(s), jnp.zeros_like(s)
        for n in range(1, 16):
            term = term * near * near / ((2 * n - 1) * (2 * n))
            power_sum = 1.0 + delta * power_sum
            series = series + power_sum * term * (1.0 + near / (2 * n + 1))
        start = 2.0 * c * jnp.exp(-near) * series

        far = jnp.where(early, 4.0, s)
        kept, _, _ = self._flow(far)  # below 1/2 from here on unless c < 0.2, then kappa > 0.77
        kappa, slow_rate, fast_rate = _rates(jnp.where(slow, c, 0.1), jnp.where(slow, delta, 0.8))
        forgotten = -fast_rate * jnp.expm1(-slow_rate * far)
        forgotten = forgotten + slow_rate * jnp.expm1(-fast_rate * far)
        rest = jnp.where(slow, forgotten / (2.0 * kappa), 1.0 - kept)
        return jnp.where(early, start, rest)

    def state_space(self):
        """**Returns:** the moment and its slope as states, $m'' = -2c m - 2m' + 2cu$. (E8)"""
        c = jnp.asarray(self.complement)
        zero, one = jnp.zeros_like(c), jnp.ones_like(c)
        A = jnp.stack([jnp.stack([zero, one]), jnp.stack([-2.0 * c, -2.0 * one])])
        return A, jnp.stack([zero, 2.0 * c]), jnp.stack([one, zero])

    def propagator(self, h, degree):
        r"""**Returns:** $e^{Ah}$ and the inputs' weights, j = 0..`degree`.

        The moment's is $I_j = \int_0^h K(u) (h-u)^j du$. As $K(0) = 0$, its slope's is $K(h)$ for
        j = 0, and $j I_{j-1}$ from there on.
        """
        h = as_lag(h)
        c, _ = self._constants(h.dtype)
        position, response, slope = self._flow(h)
        E = jnp.stack([jnp.stack([position, response]), jnp.stack([-2.0 * c * response, slope])])
        moments = self._moments(h, degree)
        slopes = [2.0 * c * response] + [j * moments[j - 1] for j in range(1, degree + 1)]
        return E, jnp.stack([jnp.stack(moments), jnp.stack(slopes)], axis=1)

    def _constants(self, dtype) -> tuple[Scalar, Scalar]:
        r"""$c = 1 - b$ and $\delta = 2b - 1 = \kappa^2$, in double as long as they are known."""
        c = self.complement
        return jnp.asarray(c, dtype), jnp.asarray(1.0 - 2.0 * c, dtype)

    def _flow(self, s: Float[Array, "*s"]) -> tuple[Float[Array, "*s"], ...]:
        r"""The entries of $e^{As} = e^{-s} (\cosh \kappa s + (A + 1) \sinh(\kappa s)/\kappa)$.

        That is 11, 12 and 22: what stays of a position, of a slope as a position, of a slope. By
        power series in $x = \delta s^2$ where that is small, so that the derivatives in b are right
        there too; everywhere else through exponentials of negative numbers.
        """
        c, delta = self._constants(s.dtype)
        x = delta * s * s
        real, imaginary = x >= 4.0, x <= -4.0

        small = jnp.where(real | imaginary, 0.0, x)
        even, odd = jnp.zeros_like(x), jnp.zeros_like(x)
        for n in range(14, -1, -1):  # 4^14/28! = 1e-21
            even = 1.0 + small / ((2 * n + 1) * (2 * n + 2)) * even
            odd = 1.0 + small / ((2 * n + 2) * (2 * n + 3)) * odd
        decay = jnp.exp(-s)
        odd = s * odd
        near = decay * (even + odd), decay * odd, decay * (even - odd)

        kappa, slow, fast = _rates(c, jnp.where(real, delta, 0.25))
        late, soon = jnp.exp(-slow * s), jnp.exp(-fast * s)
        over = (
            (fast * late - slow * soon) / (2.0 * kappa),
            -late * jnp.expm1(-2.0 * kappa * s) / (2.0 * kappa),
            (fast * soon - slow * late) / (2.0 * kappa),
        )

        rho = jnp.sqrt(jnp.where(imaginary, -delta, 1.0))
        cosine, sine = jnp.cos(rho * s), jnp.sin(rho * s) / rho
        under = decay * (cosine + sine), decay * sine, decay * (cosine - sine)
        choose = lambda n, o, u: jnp.where(real, o, jnp.where(imaginary, u, n))
        return tuple(map(choose, near, over, under))

    def _moments(self, h: Scalar, degree: int) -> list[Scalar]:
        r"""$I_j = \int_0^h K(u) (h-u)^j du$, $j = 0..$`degree`, each to rounding."""
        c, delta = self._constants(h.dtype)
        long = c * h >= 8.0  # long for the slow rate as well: integrate by parts
        short = (h < 24.0) & ~long  # so that K is smooth on the scale of h: one Gauss rule
        # else c < 1/3, kappa > 0.57: the two exponentials apart

        h_long, c_long = jnp.where(long, h, 24.0), jnp.where(long, c, 0.5)
        parts = [self.integral(h)]  # in units of h^j
        for j in range(1, degree + 1):
            twice = (j - 1) / h_long * parts[j - 2] if j > 1 else self.evaluate(h)
            parts.append(1.0 - j / (c_long * h_long) * (parts[j - 1] + 0.5 * twice))

        h_short = jnp.where(short, h, 1.0)
        nodes = jnp.asarray(_NODES, h.dtype)
        heights = h * jnp.asarray(_WEIGHTS, h.dtype) * self.evaluate(h_short * nodes)

        between = ~long & ~short
        h_apart = jnp.where(between, h, 24.0)
        c_apart = jnp.where(between, c, 0.25)
        kappa, slow, fast = _rates(c_apart, jnp.where(between, delta, 0.5))

        apart = remembered_powers(slow * h_apart, degree) - remembered_powers(
            fast * h_apart, degree
        )
        apart = c_apart / kappa * h_apart * apart

        moments = [parts[0]]
        for j in range(1, degree + 1):
            gauss = jnp.sum(heights * (1.0 - nodes) ** j)
            moments.append(h**j * jnp.where(long, parts[j], jnp.where(short, gauss, apart[j])))
        return moments


def _rates(c: Scalar, delta: Float[Array, "*s"]) -> tuple[Float[Array, "*s"], ...]:
    r"""$\kappa$ and the two rates $1 \mp \kappa$, the slow one without a subtraction."""
    kappa = jnp.sqrt(delta)
    return kappa, 2.0 * c / (1.0 + kappa), 1.0 + kappa
