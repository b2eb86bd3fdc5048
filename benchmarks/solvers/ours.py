"""idemodels."""

import functools

import numpy as np

from ..problems import Volterra
from . import Solved

PACKAGES = ("idemodels", "jax", "diffrax", "optimistix", "equinox", "numpy")
SETTINGS = {
    "volterra": [
        {"method": "Markov", "rtol": 1e-6},
        {"method": "Markov", "rtol": 1e-10, "atol": 1e-13},
        {"method": "History", "substeps": 16},
        {"method": "History", "substeps": 256},
    ],
    "abel": [
        {"method": "History", "substeps": 16},
        {"method": "History", "substeps": 256},
        {"method": "Markov", "rtol": 1e-8, "fit": 1e-6},
    ],
    "closure": [
        {"method": "Markov", "rtol": 1e-6},
        {"method": "Markov", "rtol": 1e-10, "atol": 1e-13},
    ],
    "adam": [
        {"method": "Markov", "rtol": 1e-6},
        {"method": "Markov", "rtol": 1e-10, "atol": 1e-13},
    ],
    "advanced": [{"method": "FixedPoint"}, {"method": "FixedPoint", "elements": 32}],
}
REFUSED: dict[str, str] = {}


def prepare(problem, setting):
    """A compiled solve that waits for its result."""
    import jax
    import jax.numpy as jnp

    import idemodels as ide

    setting = dict(setting)
    name, fit = setting.pop("method"), setting.pop("fit", None)
    method = getattr(ide, name)(**setting)
    if isinstance(problem, Volterra):
        kernel = {"exponential": ide.Exponential, "power": ide.PowerLaw}[problem.kernel]
        kernel = kernel(problem.parameter)
        if fit is not None:
            kernel = ide.fit_exponentials(kernel, problem.end, fit)
        memory = {"m": ide.Memory(kernel, lambda g: g)}
        model = ide.MemoryModel(memory, lambda s, theta, g, moments: moments["m"], problem.rate)
        objective, theta0 = (lambda theta: 0.5 * jnp.sum(theta**2)), jnp.asarray(1.0)
    else:
        models = {
            "adam": lambda: ide.Adam(problem.alpha, problem.b1, problem.b),
            "closure": lambda: ide.RMSProp(problem.alpha, problem.b, reading="closure"),
            "advanced": lambda: ide.RMSProp(problem.alpha, problem.b, reading="advanced"),
        }
        model = models[problem.kind]()
        objective = ide.Quadratic(problem.curvature, problem.minimum)
        theta0 = jnp.asarray(problem.theta0)
    # `solve` is compiled inside; the mesh of `FixedPoint` is chosen outside of it
    solve = functools.partial(ide.solve, model, objective, theta0, method=method, throw=False)

    def run():
        path = jax.block_until_ready(solve(ts=problem.ts))
        okay = bool(ide.is_okay(path.result))
        count = lambda key: int(path.stats[key]) if int(path.stats.get(key, -1)) >= 0 else None
        message = "successful" if okay else ide.RESULTS[path.result]
        theta = np.asarray(path.theta)
        return Solved(theta, count("num_gradients"), count("num_sweeps"), message)

    return run
