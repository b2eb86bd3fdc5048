"""The equations, and solutions of them that no solver here had a part in. NumPy only."""

import dataclasses
import math

import numpy as np

from .references import from_tests


@dataclasses.dataclass(frozen=True)
class Volterra:
    r"""$\theta' = -\lambda\, (K * \theta)$, $\theta(0) = 1$, on [0, `end`].

    - `kernel`: `"exponential"`, $K(s) = d e^{-ds}$, or `"power"`, $s^{a-1}/\Gamma(a)$.
    - `parameter`: d or a.
    """

    title: str
    kernel: str
    parameter: float
    rate: float
    end: float
    reference: str = "closed form"
    points: int = 41

    @property
    def ts(self) -> np.ndarray:
        """Where the solutions are compared."""
        return np.linspace(0.0, self.end, self.points)

    def exact(self) -> np.ndarray:
        """**Returns:** the solution at `ts`."""
        if self.kernel == "exponential":
            return _damped_wave(self.ts, self.parameter, self.rate)
        order = self.parameter + 1.0
        return mittag_leffler(order, self.rate ** (1.0 / order) * self.ts)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optimizer's equation on (theta - 4)^2 from theta = 1, on [0, `steps`].

    - `kind`: `"adam"`, `"closure"` or `"advanced"`: the last two are RMSProp's.
    - `b`: of the second moment; `b1` is Adam's first.
    """

    title: str
    kind: str
    alpha: float
    b: float
    steps: int
    b1: float = 0.0
    reference: str = "another solver, at 1e-13"

    curvature = 2.0
    minimum = 4.0
    theta0 = 1.0
    eps = 1e-8

    @property
    def ts(self) -> np.ndarray:
        """Where the solutions are compared: at the optimizer's steps."""
        return np.arange(self.steps + 1.0)

    def gradient(self, theta):
        """**Returns:** the loss's gradient, for any kind of array."""
        return self.curvature * (theta - self.minimum)

    def exact(self) -> np.ndarray:
        """**Returns:** the solution at `ts`, by the programs that the tests trust. Needs SciPy."""
        if self.kind == "advanced":
            r = from_tests("references_advanced")
            hessian = lambda theta: self.curvature + 0.0 * theta
            problem = r.rmsprop(self.alpha, self.b, self.gradient, hessian, self.theta0)
            return r.solve(problem, self.steps)[0]
        r = from_tests("references")
        if self.kind == "adam":
            rule = r.adam(self.alpha, self.b1, self.b)
        else:
            rule = r.rmsprop(self.alpha, self.b, "closure")
        loss = r.quadratic(self.curvature, self.minimum, self.theta0)
        return r.solve(rule, loss, self.ts)[:, 0]


PROBLEMS = {
    "volterra": Volterra("linear Volterra, exponential kernel", "exponential", 0.5, 0.7, 4.0),
    "abel": Volterra("linear Volterra, weakly singular kernel", "power", 0.5, 0.7, 4.0),
    "closure": Optimizer("RMSProp's closure", "closure", 0.1, 0.9, 10),
    "adam": Optimizer("Adam", "adam", 0.1, 0.999, 50, b1=0.9),
    "advanced": Optimizer("RMSProp, advanced", "advanced", 0.1, 0.9, 50),
}

# A power law over a long time: over `end` steps it swings a few times and then fades like a power.
LONG = {
    n: Volterra(f"power law, N = {n:,}", "power", 0.7, 1e4**-1.7, float(n), points=501)
    for n in (2_500, 25_000, 50_000, 100_000)
}


def mittag_leffler(order: float, s: np.ndarray) -> np.ndarray:
    r"""$E_\beta(-s^\beta)$ for $1 < \beta < 2$: two poles and an integral along the cut.

    Source: Gorenflo & Mainardi (1997), Fractional Calculus, eq. (3.19)-(3.24), arXiv:0805.3823.
    The integral is one over the whole line in the logarithm of its variable, where the trapezoidal
    rule converges geometrically.
    """
    poles = 2.0 / order * np.exp(s * math.cos(math.pi / order))
    poles = poles * np.cos(s * math.sin(math.pi / order))
    x = np.linspace(-60.0, 60.0, 6001)
    r = np.exp(x)
    top = np.exp(order * np.minimum(x, 0.0) - order * np.maximum(x, 0.0))
    low = np.exp(-2.0 * order * np.abs(x))
    # r^b sin(b pi) / (r^2b + 2 r^b cos(b pi) + 1), divided through by the larger of r^2b and 1
    spectrum = top * math.sin(order * math.pi) / (1.0 + 2.0 * top * math.cos(order * math.pi) + low)
    cut = [np.sum(np.exp(-r * t) * spectrum) for t in s]
    return poles + np.array(cut) * (x[1] - x[0]) / math.pi


def _damped_wave(s: np.ndarray, d: float, rate: float) -> np.ndarray:
    r"""$\theta'' + d\theta' + \lambda d\theta = 0$, $\theta'(0) = 0$, for $d < 4\lambda$."""
    w = math.sqrt(rate * d - 0.25 * d * d)
    return np.exp(-0.5 * d * s) * (np.cos(w * s) + 0.5 * d / w * np.sin(w * s))
