"""The papers' own numerics, from a checkout of the authors' repository.

Picard sweeps over the whole path with a smoothing factor, explicit Euler with the step of the
optimizer, Gauss-Legendre with 1000 points for each integral, until a sweep moves the path by 1e-4.
"""

import os
import sys

import numpy as np

from . import Solved, Unavailable

PACKAGES = ("numba", "scipy", "numpy")
CHECKOUT = "AUTHORS_CHECKOUT"
SETTINGS = {"adam": [{}], "advanced": [{}]}
REFUSED = {
    "volterra": "not an optimizer's equation",
    "abel": "not an optimizer's equation",
    "closure": "it has the advanced reading only",
}


def prepare(problem, setting):
    """Their class, with their defaults; time is theirs, alpha for a step."""
    del setting
    if not os.environ.get(CHECKOUT):
        raise Unavailable("no checkout of numerical_simulations_nonlocal was given")
    sys.path.insert(0, os.environ[CHECKOUT])
    from Solver import NonlocalSolver as theirs

    options = {
        "f": lambda t, y: 0.0,
        "dL": problem.gradient,
        "t_span": [1e-12, (problem.steps + 0.5) * problem.alpha],
        "y0": np.array([problem.theta0]),
        "alpha": problem.alpha,
        "verbose": False,
    }

    def run():
        if problem.kind == "adam":
            solver = theirs.NonlocalSolverMomentumAdam(betas=[problem.b1, problem.b], **options)
        else:
            solver = theirs.NonlocalSolverMomentumRMSProp(beta=problem.b, **options)
        _, theta = solver.solve()
        reached = solver.global_error <= solver.global_error_tolerance
        result = "successful" if reached else f"stopped at {solver.global_error:.1e}"
        return Solved(theta, sweeps=solver.iteration, result=result)

    return run
