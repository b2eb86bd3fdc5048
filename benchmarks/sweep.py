"""A grid of hyperparameters: `python -m benchmarks.sweep`, beside a plain `vmap` of diffrax.

Adam on a quadratic, a grid of learning rates and both decays, of which a few lanes take a hundred
times as many steps as most. Plain `jit(vmap(diffeqsolve))` makes every lane wait for the slowest.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from . import process, provenance
from .contestants import JAX
from .records import HERE, write

STEPS, RTOL, ATOL = 1000, 1e-5, 1e-8
# Short lanes, of which a store takes many; as many are run first as compile every program.
_SHORT, _WARM, _STREAMS = 200, 4000, (10_000, 100_000, 1_000_000)
# Of the path's range: a lane that is further from its tight solution is wrong.
_WRONG = 1e-3


def grid(size: int) -> dict[str, np.ndarray]:
    """**Returns:** the values of each axis, `size` of them."""
    return {
        "learning_rate": np.geomspace(1e-4, 1e-1, size),
        "b1": np.linspace(0.0, 0.99, size),
        "b2": 1.0 - np.geomspace(1e-1, 1e-4, size),
    }


def plain(axes: dict[str, np.ndarray]) -> Any:
    """**Returns:** a function without arguments: every lane by Tsit5, with diffrax alone."""
    import diffrax
    import jax
    import jax.numpy as jnp

    alpha, b1, b2 = (x.ravel() for x in np.meshgrid(*axes.values(), indexing="ij"))
    logs = np.log(b1, out=np.full_like(b1, -1e30), where=b1 > 0), np.log(b2)
    lanes = [jnp.asarray(x) for x in (alpha, 1.0 - b1, 1.0 - b2, *logs)]

    def field(s, y, lane):
        theta, m, v = y
        alpha, r1, r2, log1, log2 = lane
        g = 2.0 * (theta - 4.0)
        started = s > 0
        s = jnp.where(started, s, 1.0)
        mean = jnp.where(started, m / -jnp.expm1(s * log1), g * r1 / -log1)
        square = jnp.where(started, v / -jnp.expm1(s * log2), g * g * r2 / -log2)
        positive = square > 0
        root = jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)
        return -alpha * mean / (root + 1e-8), r1 * (g - m), r2 * (g * g - v)

    def solve(*lane):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Tsit5(),
            0.0,
            float(STEPS),
            0.1,
            (jnp.ones(()), jnp.zeros(()), jnp.zeros(())),
            args=lane,
            stepsize_controller=diffrax.PIDController(rtol=RTOL, atol=ATOL),
            max_steps=1_000_000,
            throw=False,
        )
        okay = solution.result == diffrax.RESULTS.successful
        assert solution.ys is not None
        return solution.ys[0][-1], okay, solution.stats["num_steps"]

    mapped = jax.jit(jax.vmap(solve))
    return lambda: jax.block_until_ready(mapped(*lanes))


def ours(axes: dict[str, np.ndarray], batch: int, method: Any = None) -> Any:
    """**Returns:** a function without arguments: the same by `idemodels.sweep`."""
    import idemodels as ide

    options = {"batch": batch, "method": method, "discrete": False, "progress": False}
    return lambda: ide.sweep(ide.Adam(0.01), ide.Quadratic(), 1.0, STEPS, axes, **options)


def measure(size: int, batch: int) -> dict[str, Any]:
    """**Returns:** both, and how far each lane is from a tight solution by another method."""
    import diffrax
    import jax

    import idemodels as ide

    axes = grid(size)
    tight = ide.Markov(diffrax.Dopri8(), rtol=1e-9, atol=1e-12, steady_tol=1e-6)
    truth = ours(axes, batch, tight)()
    exact = truth.final_theta.values.ravel()
    sound = truth.status.values.ravel() <= 1
    records = []
    for name, run in (("jit(vmap(Tsit5))", plain(axes)), ("sweep", ours(axes, batch))):
        begin = time.perf_counter()
        run()
        first = time.perf_counter() - begin
        begin = time.perf_counter()
        found = run()
        took = time.perf_counter() - begin
        if name == "sweep":
            theta, status = found.final_theta.values.ravel(), found.status.values.ravel()
            okay, steps = status <= 1, found.num_steps.values.ravel()
        else:
            theta, okay, steps = (np.asarray(x) for x in found)
        error = np.abs(theta - exact) / np.abs(exact - 1.0)
        records.append(
            {
                "solver": name,
                "seconds": took,
                "compile_s": first - took,
                "max_error": float(np.max(error[okay & sound])),
                "wrong": int(np.sum(error[okay & sound] > _WRONG)),
                "marked": int(np.sum(~okay)),
                "mean_steps": float(np.mean(steps)),
                "max_steps": int(np.max(steps)),
            }
        )
        print({k: v if isinstance(v, str) else float(f"{v:.4g}") for k, v in records[-1].items()})
        jax.clear_caches()
    return {
        "config": {"lanes": size**3, "batch": batch, "steps": STEPS, "rtol": RTOL, "atol": ATOL},
        "without_truth": int(np.sum(~sound)),
        "times_faster": records[0]["seconds"] / records[1]["seconds"],
        "records": records,
    }


def stream(lanes: int, batch: int) -> dict[str, Any]:
    """**Returns:** what so many short lanes take, with their discrete runs, through a store."""
    import resource
    import tempfile

    import idemodels as ide

    def run(lanes: int, store: Path) -> tuple[float, Any]:
        axes = {
            "learning_rate": np.geomspace(1e-4, 1e-1, lanes // 100),
            "b1": np.linspace(0.0, 0.99, 10),
            "b2": 1.0 - np.geomspace(1e-1, 1e-4, 10),
        }
        begin = time.perf_counter()
        model, objective = ide.Adam(0.01), ide.Quadratic()
        found = ide.sweep(
            model, objective, 1.0, _SHORT, axes, batch=batch, store=store, progress=False
        )
        return time.perf_counter() - begin, found

    with tempfile.TemporaryDirectory() as folder:
        run(_WARM, Path(folder, "warm.zarr"))  # compiles
        seconds, found = run(lanes, Path(folder, "sweep.zarr"))
        status = found.status.values.ravel()
    return {
        "config": {"lanes": lanes, "batch": batch, "steps": _SHORT},
        "seconds": seconds,
        "us_per_lane": 1e6 * seconds / lanes,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "marked": int(np.sum(status > 1)),
    }


def streams(sizes: tuple[int, ...], batch: int) -> list[dict[str, Any]]:
    """**Returns:** the records of sweeps of several sizes, each in a process of its own."""
    found = []
    for lanes in sizes:
        arguments = ["--stream", str(lanes), "--batch", str(batch)]
        lines, failure = process.run([sys.executable, "-m", "benchmarks.sweep", *arguments], 1800.0)
        found.append({"result": failure} if failure else json.loads(lines[-1]))
        print(found[-1])
    return found


def main(arguments: list[str] | None = None) -> int:
    """Writes the record."""
    import jax

    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="512 lanes instead of 4096")
    parser.add_argument("--batch", type=int, default=1024, help="lanes at once, 1024")
    parser.add_argument(
        "--stream", type=int, metavar="N", help="only N short lanes through a store"
    )
    parser.add_argument("--out", type=Path, help="where the record goes")
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)
    if options.stream:
        print(json.dumps(stream(options.stream, options.batch)))
        return 0
    page = {
        **provenance.source(),
        **provenance.machine(),
        **provenance.device(),
        "versions": provenance.versions(JAX),
        **measure(8 if options.quick else 16, options.batch),
        "streams": streams(_STREAMS[: 1 if options.quick else None], options.batch),
    }
    print(f"{page['times_faster']:.1f} times faster")
    write(options.out or HERE / "results" / "sweep.json", page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
