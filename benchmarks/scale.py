"""Large networks in single precision: `python -m benchmarks.scale SIZE CONTESTANT`, in a process.

What a step of a solver costs beside the gradients in it, in time and in memory. Printed as JSON on
the last line.
"""

import dataclasses
import json
import platform
import sys
import time
from itertools import pairwise
from typing import Any

import numpy as np

from . import provenance
from .contestants import JAX
from .meter import SECONDS, best_of, peak_memory, reset_peak


@dataclasses.dataclass(frozen=True)
class Size:
    """`DigitsMLP(hidden)` under Adam(0.001), on [0, `steps`]."""

    hidden: tuple[int, ...]
    steps: int

    @property
    def parameters(self) -> int:
        """How many parameters the network has."""
        widths = (64, *self.hidden, 10)
        return sum(a * b + b for a, b in pairwise(widths))


SIZES = {
    "1e4": Size((133,), 200),
    "1e5": Size((280, 280), 50),
    "1e6": Size((963, 963), 20),
}
RTOL, ATOL = 1e-3, 3e-5
# The tolerance of what an error is measured against: of the same solver, in single precision.
_TIGHTER = 10.0
CONTESTANTS = {
    "multistep3": "ExponentialMultistep(3)",
    "bdf": "QuasiNewtonBDF",
    "tsit5": "Tsit5",
    "discrete": "discrete (optax)",
}
QUICK = ("multistep3", "discrete")


def config(size: Size, name: str) -> dict[str, Any]:
    """**Returns:** what a record says of the case."""
    network = {"hidden": size.hidden, "parameters": size.parameters, "steps": size.steps}
    return network | {"solver": CONTESTANTS[name], "rtol": RTOL, "atol": ATOL}


def measure(size: Size, name: str) -> dict[str, Any]:
    """**Returns:** what a record has of a solve."""
    import jax
    import jax.numpy as jnp

    import idemodels as ide

    found: dict[str, Any] = {
        "config": config(size, name),
        "python": platform.python_version(),
        "versions": provenance.versions(JAX),
        **provenance.device(),
    }
    objective = ide.DigitsMLP(hidden=size.hidden)
    theta0 = objective.theta0
    gradient = jax.jit(jax.grad(objective)).lower(theta0).compile()
    gradient_s = best_of(lambda: gradient(theta0))
    solve = _solve(objective, theta0, size, name, 1.0).lower(theta0).compile()
    begin = time.perf_counter()
    before = reset_peak()
    theta, okay, stats = jax.block_until_ready(solve(theta0))
    peak = peak_memory()
    first = time.perf_counter() - begin
    best = min(first, best_of(lambda: solve(theta0))) if first < SECONDS else first
    by = "multistep3" if name == "discrete" else name
    reference, sound, _ = _solve(objective, theta0, size, by, _TIGHTER)(theta0)
    far = lambda a, b: max(float(jnp.max(jnp.abs(x - y))) for x, y in _pairs(a, b))
    rms = lambda a, b: float(sum(jnp.sum((x - y) ** 2) for x, y in _pairs(a, b))) ** 0.5
    error = far(theta, reference) / far(reference, theta0)
    rms_error = rms(theta, reference) / rms(reference, theta0)
    steps, gradients = int(stats["num_steps"]), int(stats["num_gradients"])
    one = 4 * size.parameters
    temporary = lambda program: program.memory_analysis().temp_size_in_bytes
    return found | {
        "result": "successful" if bool(okay) else "failed",
        "error": error if bool(sound) and np.isfinite(error) else None,
        "rms_error": rms_error if bool(sound) and np.isfinite(rms_error) else None,
        "gradient_s": gradient_s,
        "solve_s": best,
        "steps": steps,
        "gradients": gradients,
        "step_s": best / steps,
        "step_in_gradients": best / steps / gradient_s,
        "overhead": best / gradients / gradient_s,
        "copies_program": (temporary(solve) - temporary(gradient)) / one,
        "copies_process": None if before is None or peak is None else (peak - before) / one,
    }


def _solve(objective, theta0, size: Size, name: str, tighter: float) -> Any:
    """A compiled function of theta0; the path is not kept."""
    import diffrax
    import jax
    import jax.numpy as jnp

    import idemodels as ide

    model = ide.Adam(1e-3)
    # a constant instead of theta: the path is not kept
    save = lambda s, theta, moments: jnp.zeros(())
    if name == "discrete":

        def run(theta0):
            last = [size.steps]
            path = ide.run_discrete(model, objective, theta0, size.steps, ts=last)
            end = jax.tree.map(lambda x: x[-1], path.theta)
            return end, ide.is_okay(path.result), path.stats

        return jax.jit(run)
    solver = {
        "multistep3": lambda: ide.ExponentialMultistep(order=3),
        "bdf": lambda: ide.QuasiNewtonBDF(),
        "tsit5": diffrax.Tsit5,
    }[name]()
    method = ide.Markov(solver, rtol=RTOL / tighter, atol=ATOL / tighter)
    ts = np.array([0.0, size.steps])

    def run(theta0):
        options = {"method": method, "save": save, "throw": False}
        path = ide.solve(model, objective, theta0, ts, **options)
        return path.state_at(-1).theta, ide.is_okay(path.result), path.stats

    return jax.jit(run)


def _pairs(a: Any, b: Any) -> Any:
    import jax

    return zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)


if __name__ == "__main__":
    print(json.dumps(measure(SIZES[sys.argv[1]], sys.argv[2])))
