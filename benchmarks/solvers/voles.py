"""voles: collocation for linear Volterra equations with convolution kernels."""

import math

import numpy as np

from . import Solved

PACKAGES = ("voles", "scipy", "numpy")
SETTINGS = {
    "volterra": [{"intervals": 10}, {"intervals": 80}],
    "abel": [{"intervals": 10}, {"intervals": 80}],
}
_LINEAR = "its equation is linear: a(t) y + g(t) + the integral of K(t-s) y(s)"
REFUSED = dict.fromkeys(("closure", "adam", "advanced"), _LINEAR)


def prepare(problem, setting):
    """Three Gauss points an interval; on a mesh graded for the kernel where that is singular."""
    import voles

    a, rate, intervals = problem.parameter, problem.rate, setting["intervals"]
    if problem.kernel == "power":
        mesh = voles.optimal_graded_mesh(alpha=1.0 - a, T=problem.end, M=intervals, order=3)
        kernel = lambda u: -rate * u ** (a - 1.0) / math.gamma(a)
        singularity = {0.0: 1.0 - a}
    else:
        mesh = np.linspace(0.0, problem.end, intervals + 1)
        kernel = lambda u: -rate * a * np.exp(-a * u)
        singularity = None

    def run():
        _, solution = voles.function_solve_VIDE(
            kernel=kernel,
            soln_init_value=1.0,
            mesh_breakpoints=mesh,
            coll_nodes=voles.gauss_legendre_nodes(3),
            kernel_singularity=singularity,
            return_function=True,
            show_warnings=False,
        )
        return Solved(np.array([float(solution(t)) for t in problem.ts]))

    return run
