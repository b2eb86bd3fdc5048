"""idesolver: smoothed fixed-point sweeps over the whole interval, each a solve_ivp with quad."""

import math

import numpy as np

from ..problems import Volterra
from . import Solved

PACKAGES = ("idesolver", "scipy", "numpy")
SETTINGS = {
    "volterra": [{"tolerance": 1e-4}, {"tolerance": 1e-8}],
    "abel": [{"tolerance": 1e-4}],
    "closure": [{"tolerance": 1e-4}, {"tolerance": 1e-8}],
}
REFUSED = {
    "adam": "its equation is of order 1 in one integral; as a system in (theta, m, v) it is 0/0 at 0",
    "advanced": "the velocity must be linear in the integral; no value ahead of x outside of it",
}


def prepare(problem, setting):
    """The equation in its form, y' = c(x, y) + d(x) int k(x, s) F(y(s)) ds.

    There RMSProp's closure is a system by hand, for theta and v, whose v' has the kernel's
    derivative under the integral.
    """
    import idesolver

    options = {"x": problem.ts, "upper_bound": lambda x: x, "max_iterations": 200}
    options["global_error_tolerance"] = setting["tolerance"]
    if isinstance(problem, Volterra):
        a, rate = problem.parameter, problem.rate
        kernels = {
            "exponential": lambda x, s: -rate * a * math.exp(-a * (x - s)),
            "power": lambda x, s: -rate * (x - s) ** (a - 1.0) / math.gamma(a),
        }
        options |= {"y_0": 1.0, "k": kernels[problem.kernel], "f": lambda y: y}
    else:
        d = 1.0 - problem.b

        def c(x, y):
            g, v = problem.gradient(y[0]), max(y[1], 0.0)
            root = math.sqrt(problem.b * v + d * g * g)
            return np.array([-problem.alpha * g / (root + problem.eps), d * g * g])

        f = lambda y: np.array([0.0, problem.gradient(y[0]) ** 2])
        k = lambda x, s: -d * d * math.exp(-d * (x - s))
        options |= {"y_0": np.array([problem.theta0, 0.0]), "c": c, "k": k, "f": f}

    def run():
        solver = idesolver.IDESolver(**options)
        y = np.asarray(solver.solve())
        reached = solver.global_error <= setting["tolerance"]
        result = "successful" if reached else f"error {solver.global_error:.1e} after 200 sweeps"
        return Solved(y if y.ndim == 1 else y[0], sweeps=solver.iteration, result=result)

    return run
