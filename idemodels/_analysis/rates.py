"""Laws of decay, fitted to what falls over decades."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

# The nearest starts are followed.
_TRIED = 2
# A law that is met to rounding: nothing is gained by one with more parameters.
_EXACT = 1e-18


class Parameter(NamedTuple):
    """A fitted number, and its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Fit:
    r"""A law fitted to $\ln y$ by least squares.

    - `law`: "exponential", $A e^{-\omega (s - s_1)}$; "exponential with floor", the same $+ B$;
        "power", $A\,((s + s_0)/(s_1 + s_0))^{-p}$.
    - `rate`: $\omega$, unit 1/step, or the exponent p; a
        [`Parameter`][idemodels.analysis.Parameter].
    - `start`: $s_1$, the first step that was fitted.
    - `amplitude`, `floor`, `shift`: A, B and $s_0$; 0 where the law has none.
    - `deviation`: the standard deviation of $\ln y$ about the law.
    - `bic`: Schwarz's criterion; the law with the least is the better one.
    """

    law: str
    rate: Parameter
    start: float
    amplitude: float
    floor: float
    shift: float
    deviation: float
    bic: float

    def at(self, s: Any) -> np.ndarray:
        """The law at the steps `s`."""
        s = np.asarray(s, float)
        if self.law == "power":
            ratio = (s + self.shift) / (self.start + self.shift)
            return self.amplitude * ratio**-self.rate.value
        return self.amplitude * np.exp(-self.rate.value * (s - self.start)) + self.floor


# In each: ln y and its derivatives in the parameters, at times scaled to run from 0 to 1.
_Law = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def fit_laws(s: np.ndarray, y: np.ndarray, confidence: float) -> dict[str, Fit]:
    """Every law, by name, in the order of `Fit.law`.

    Intervals are those of linearised least squares with Student's distribution, widened for
    residuals that go together from point to point: as if there were n (1 - r)/(1 + r) points, r
    their correlation with the next one. Noise is taken to be relative, of one size.

    **Arguments:**

    - `s`: shape `(n,)`, n at least 6, increasing; `y`: positive, `(n,)`.
    - `confidence`: of the intervals, in (0, 1).
    """
    first, span = float(s[0]), float(s[-1] - s[0])
    x, z = (s - first) / span, np.log(y)
    drop = max(z[0] - z[-1], 1e-3)
    found = {}

    def keep(name, fitted, of_rate, floor=0.0, shift=0.0):
        p, cov, deviation, bic = fitted
        interval = _interval(p[1], cov[1, 1], x.size, p.size, confidence)
        rate = Parameter(*(float(of_rate(v)) for v in interval))
        top = p[0] if name != "power" else p[0] - p[1] * p[2]
        found[name] = Fit(name, rate, first, float(np.exp(top)), floor, shift, deviation, bic)

    # (ln A, k), with k = omega span
    keep("exponential", _least_squares(_exponential, [np.array([z[0], drop])], x, z), _per(span))
    # (ln A, ln k, ln B)
    starts = [
        np.array([z[0], np.log(k), z.min() + below])
        for k in np.geomspace(max(drop, 0.5), 40 * max(drop, 0.5), 8)
        for below in (0.0, -0.7, -3.0)
    ]
    fitted = _least_squares(_with_floor, starts, x, z)
    of_rate = lambda v: np.exp(min(v, 700.0)) / span
    keep("exponential with floor", fitted, of_rate, floor=float(np.exp(fitted[0][2])))
    # (ln A, p, ln x0): y = A (x + x0)^-p
    starts = []
    for x0 in np.geomspace(1e-3, 30.0, 16):
        exponent = drop / np.log1p(1 / x0)
        starts.append(np.array([z[0] + exponent * np.log(x0), exponent, np.log(x0)]))
    fitted = _least_squares(_power, starts, x, z)
    shift = float(np.exp(fitted[0][2]) * span - first)
    keep("power", fitted, lambda v: v, shift=shift)
    return found


def _per(span: float) -> Callable[[float], float]:
    return lambda v: v / span


def best(fits: dict[str, Fit]) -> str:
    """The law that Schwarz's criterion prefers."""
    return min(fits, key=lambda name: fits[name].bic)


def _exponential(p: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return p[0] - p[1] * x, np.stack([np.ones_like(x), -x], axis=1)


def _with_floor(p: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    k = np.exp(np.clip(p[1], -50.0, 50.0))
    falling = p[0] - k * x
    z = np.logaddexp(falling, p[2])
    part = np.exp(falling - z)
    return z, np.stack([part, -k * x * part, 1.0 - part], axis=1)


def _power(p: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x0 = np.exp(np.clip(p[2], -50.0, 50.0))
    log = np.log(x + x0)
    return p[0] - p[1] * log, np.stack([np.ones_like(x), -log, -p[1] * x0 / (x + x0)], axis=1)


def _least_squares(law: _Law, starts: list[np.ndarray], x: np.ndarray, z: np.ndarray):
    """The best of all starts, its covariance, deviation and criterion; Levenberg-Marquardt."""
    from scipy.optimize import least_squares

    nearest = sorted(starts, key=lambda p: float(np.sum((z - law(p, x)[0]) ** 2)))[:_TRIED]
    options: Any = {"jac": lambda p: law(p, x)[1], "method": "lm", "ftol": 1e-12, "xtol": 1e-12}
    tried = [least_squares(lambda p: law(p, x)[0] - z, start, **options) for start in nearest]
    p = min(tried, key=lambda found: found.cost).x
    model, J = law(p, x)
    left = z - model
    n, k = x.size, p.size
    size = float(left @ left)
    variance = max(size / max(n - k, 1), np.finfo(float).eps ** 2)
    cov = variance * (n / _independent(left)) * np.linalg.pinv(J.T @ J)
    bic = n * np.log(max(size / n, _EXACT)) + k * np.log(n)
    return p, cov, float(np.sqrt(variance)), float(bic)


def _independent(left: np.ndarray) -> float:
    """As how many independent points residuals count, by their correlation with the next."""
    size = float(left @ left)
    r = float(left[1:] @ left[:-1]) / size if size > 0 else 0.0
    r = min(max(r, 0.0), 1.0 - 2.0 / left.size)
    return left.size * (1.0 - r) / (1.0 + r)


def _interval(value: float, variance: float, n: int, k: int, confidence: float):
    from scipy.special import stdtrit

    half = float(stdtrit(n - k, 0.5 + 0.5 * confidence)) * np.sqrt(max(variance, 0.0))
    return float(value), float(value - half), float(value + half)
