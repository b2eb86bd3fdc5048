"""The papers' numerics for Adam, written anew from their description, in NumPy and SciPy.

Sweeps over the whole path. In each, every moment at every grid point is an integral over the whole
past, by Gauss-Legendre with 1000 nodes, of the kernel times a feature of the gradient at the cubic
interpolant of the last path; the new path is explicit Euler with the step of the optimizer. The
next path is a mixture of the last one and the new one: the weight of the last one is 0.5, and goes
on towards 0.9999 whenever a sweep moves the path by more than the sweep before. It ends when a
sweep moves it by less than 1e-4.

Where a description leaves a choice, it is the faster one: what no sweep changes, nodes and
kernels, is computed once, and a sweep has no loop in Python. `"loop": True` is the same with one
grid point after another, as one writes it down first, and with the kernels computed when needed.
"""

import numpy as np

from . import Solved

PACKAGES = ("scipy", "numpy")
SETTINGS = {"adam": [{}]}
REFUSED = dict.fromkeys(("volterra", "abel", "closure", "advanced"), "Adam only")

_NODES, _TOLERANCE, _FIRST, _LAST, _SWEEPS = 1000, 1e-4, 0.5, 0.9999, 500
# How much of what is left to `_LAST` the weight goes on at a time.
_RISE = 0.3


def prepare(problem, setting):
    """`problem` has `alpha`, `b1`, `b`, `steps`, `theta0` and `gradient`."""
    from scipy.interpolate import CubicSpline

    s = np.arange(problem.steps + 1.0)
    x, w = np.polynomial.legendre.leggauss(_NODES)
    x, w = 0.5 * (x + 1.0), 0.5 * w
    rates = (1.0 - problem.b1, 1.0 - problem.b)

    def looped(spline):
        m, v = np.zeros_like(s), np.zeros_like(s)
        for k, now in enumerate(s):
            at = now * x
            weight = now * w
            g = problem.gradient(spline(at))
            m[k] = np.sum(weight * rates[0] * np.exp(-rates[0] * (now - at)) * g)
            v[k] = np.sum(weight * rates[1] * np.exp(-rates[1] * (now - at)) * g * g)
        return m, v

    def vectorized():
        at = s[:, None] * x
        lag = s[:, None] - at
        kernels = [s[:, None] * w * r * np.exp(-r * lag) for r in rates]

        def moments(spline):
            g = problem.gradient(spline(at))
            return np.sum(kernels[0] * g, axis=1), np.sum(kernels[1] * g * g, axis=1)

        return moments

    def swept(m, v):
        """Euler, with the limit of the quotient at s = 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            low = np.sqrt(-np.expm1(s * np.log(problem.b)))
            debias = low / -np.expm1(s * np.log(problem.b1))
            direction = debias * m / (np.sqrt(v) + low * problem.eps)
        limit = rates[0] / -np.log(problem.b1) * np.sqrt(-np.log(problem.b) / rates[1])
        direction[0] = limit * np.sign(problem.gradient(problem.theta0))
        moved = np.concatenate([[0.0], np.cumsum(direction[:-1])])
        return problem.theta0 - problem.alpha * moved

    def run():
        moments = looped if setting.get("loop") else vectorized()
        path, keep, last = np.full_like(s, problem.theta0), _FIRST, np.inf
        gradients = 0
        for sweep in range(1, _SWEEPS + 1):
            new = swept(*moments(CubicSpline(s, path)))
            gradients += s.size * _NODES + 1
            moved = np.max(np.abs(new - path))
            if not np.isfinite(moved):
                return Solved(path, gradients, sweep, "not finite")
            if moved < _TOLERANCE:
                return Solved(new, gradients, sweep)
            if moved > last:
                keep += _RISE * (_LAST - keep)
            path, last = keep * path + (1.0 - keep) * new, moved
        return Solved(path, gradients, _SWEEPS, f"stopped at {last:.1e}")

    return run
