"""idesolver: smoothed fixed-point sweeps over the whole interval, each a solve_ivp with quad."""

import math

import numpy as np

from ..problems import Volterra
from . import Solved

PACKAGES = ("idesolver", "scipy", "numpy")
SETTINGS = {
    "volterra": [{"tolerance": 1e-4, "fine": 1}, {"tolerance": 1e-8, "fine": 4}],
    "abel": [{"tolerance": 1e-4, "fine": 1}],
    "closure": [{"tolerance": 1e-4, "fine": 1}, {"tolerance": 1e-8, "fine": 4}],
    "adam": [{"tolerance": 1e-4, "fine": 1}, {"tolerance": 1e-8, "fine": 4}],
}
REFUSED = {
    "advanced": "the velocity must be linear in the integral, and nothing else may be read ahead",
}


def prepare(problem, setting):
    """The equation in its form, y' = c(x, y) + d(x) int k(x, s) F(y(s)) ds.

    An optimizer's is a system by hand, of theta and its moments, whose derivatives have that of the
    kernel under the integral. `fine`: its points for each of the problem's.
    """
    import idesolver

    ts, fine = problem.ts, setting["fine"]
    x = np.linspace(ts[0], ts[-1], fine * (ts.size - 1) + 1)
    options = {"x": x, "upper_bound": lambda x: x, "max_iterations": 200}
    options["global_error_tolerance"] = setting["tolerance"]
    if isinstance(problem, Volterra):
        a, rate = problem.parameter, problem.rate
        kernels = {
            "exponential": lambda x, s: -rate * a * math.exp(-a * (x - s)),
            "power": lambda x, s: -rate * (x - s) ** (a - 1.0) / math.gamma(a),
        }
        options |= {"y_0": 1.0, "k": kernels[problem.kernel], "f": lambda y: y}
    else:
        names = ("m", "v") if problem.kind == "adam" else ("v",)
        d = np.array([1.0 - (problem.b1 if name == "m" else problem.b) for name in names])
        feature = lambda g: np.array([g if name == "m" else g * g for name in names])

        def c(x, y):
            g, v = problem.gradient(y[0]), max(y[-1], 0.0)
            if problem.kind == "closure":
                pull = g / (math.sqrt(problem.b * v + d[-1] * g * g) + problem.eps)
            elif x == 0.0:  # the limit of 0/0
                pull = d[0] / -math.log(problem.b1) * math.sqrt(-math.log(problem.b) / d[1])
                pull *= math.copysign(1.0, g)
            else:
                low = math.sqrt(-math.expm1(x * math.log(problem.b)))
                debias = low / -math.expm1(x * math.log(problem.b1))
                pull = debias * y[1] / (math.sqrt(v) + low * problem.eps)
            return np.concatenate([[-problem.alpha * pull], d * feature(g)])

        # the derivatives of the moments: theirs at s, above, and those of their kernels
        f = lambda y: np.concatenate([[0.0], feature(problem.gradient(y[0]))])
        k = lambda x, s: np.concatenate([[0.0], -d * d * np.exp(-d * (x - s))])
        start = np.concatenate([[problem.theta0], np.zeros(d.size)])
        options |= {"y_0": start, "c": c, "k": k, "f": f}

    def run():
        solver = idesolver.IDESolver(**options)
        y = np.asarray(solver.solve())[..., ::fine]
        reached = solver.global_error <= setting["tolerance"]
        result = "successful" if reached else f"error {solver.global_error:.1e} after 200 sweeps"
        return Solved(y if y.ndim == 1 else y[0], sweeps=solver.iteration, result=result)

    return run
