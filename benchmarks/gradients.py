"""What derivatives cost beside the optimizer's own: `python -m benchmarks.gradients`.

The final loss of the digits network under Adam(0.01), differentiated in the learning rate and in
both decays, in reverse and forwards: through `idemodels.solve` as it is by default, and through the
unrolled optax run with checkpoints. Each case runs alone, in a process of its own, of which the
reverse mode is compiled and run first: its peak is that of the process.
"""

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from . import process, provenance
from .contestants import JAX
from .meter import best_of, peak_memory
from .records import HERE, write

VALUES = {"learning_rate": 1e-2, "b1": 0.9, "b2": 0.999}
# Steps that share a checkpoint in the unrolled run. Each is one too.
BLOCK = 20
# The root makes the derivative of sqrt(v) finite where a pixel is never set.
ROOT = 1e-16
SIDES = ("equation", "eager", "discrete")
HORIZONS = (300, 2000, 8000)
# Horizon, side, and whether in double precision.
CASES = [(steps, side, False) for steps in HORIZONS for side in SIDES]
CASES += [(2000, side, True) for side in SIDES]
QUICK = CASES[:3]
_LIMIT = 1800.0


def by_solve(values: dict[str, Any], steps: int, adjoint: Any = None) -> tuple[Any, Any]:
    """**Returns:** the last loss of the equation; how many steps its solver took, and whether all
    is well."""
    import idemodels as ide

    objective, ts = ide.DigitsMLP(), np.array([0.0, steps])
    given = ide.Adam(**values), objective, objective.theta0, ts
    path = ide.solve(*given, adjoint=adjoint, throw=False)
    return path.loss[-1], (path.stats["num_steps"], ide.is_okay(path.result))


def by_optax(values: dict[str, Any], steps: int, adjoint: Any = None) -> tuple[Any, Any]:
    """**Returns:** the last loss of the run, unrolled by hand; its steps, and True."""
    import jax
    import optax

    import idemodels as ide

    del adjoint
    objective, optimizer = ide.DigitsMLP(), optax.adam(**values, eps_root=ROOT)

    @jax.checkpoint
    def step(state, _):
        theta, memory = state
        updates, memory = optimizer.update(jax.grad(objective)(theta), memory, theta)
        return (optax.apply_updates(theta, updates), memory), None

    @jax.checkpoint
    def block(state, _):
        return jax.lax.scan(step, state, length=BLOCK)

    start = objective.theta0, optimizer.init(objective.theta0)
    (theta, _), _ = jax.lax.scan(block, start, length=steps // BLOCK)
    return objective(theta), (steps, True)


def measure(steps: int, side: str) -> dict[str, Any]:
    """**Returns:** the record of a case, in the precision that is set."""
    import diffrax
    import jax
    import jax.numpy as jnp

    made = by_optax if side == "discrete" else by_solve
    run = lambda values, adjoint=None: made(values, steps, adjoint)
    forwards = jax.jacfwd(lambda values: run(values, diffrax.ForwardMode())[0])
    programs = {
        "reverse": jax.grad(run, has_aux=True),
        "solve": run,
        "forwards": lambda values: (forwards(values), None),
    }
    values = {name: jnp.asarray(value) for name, value in VALUES.items()}
    found: dict[str, Any] = {
        "config": {"steps": steps, "side": side, "values": VALUES},
        "python": platform.python_version(),
        "versions": provenance.versions(JAX),
        **provenance.device(),
    }
    for name, program in programs.items():
        entry = program if side == "eager" else jax.jit(program)
        begin = time.process_time()
        # optax's count is an integer, and its tangent mixes with floats
        with jax.numpy_dtype_promotion("standard"):
            out, more = jax.block_until_ready(entry(values))
        found[name] = {"first_cpu_s": time.process_time() - begin}
        if name == "reverse":
            found[name]["process_mib"] = (peak_memory() or np.nan) / 2**20
        found[name]["seconds"] = best_of(lambda entry=entry: entry(values))
        if name == "solve":
            found["loss"], found["solver_steps"] = float(out), int(more[0])
            found["result"] = "successful" if bool(more[1]) else "failed"
        else:
            found[name]["gradient"] = {key: float(x) for key, x in out.items()}
    return found


def main(arguments: list[str] | None = None) -> int:
    """Writes the record."""

    parser = argparse.ArgumentParser(prog="python -m benchmarks.gradients", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="300 steps only")
    parser.add_argument("--case", nargs=2, metavar=("STEPS", "SIDE"), help="this one, printed")
    parser.add_argument("--out", type=Path, help="where the record goes")
    options = parser.parse_args(arguments)
    if options.case:
        print(json.dumps(measure(int(options.case[0]), options.case[1])))
        return 0
    page = provenance.page(JAX)
    for steps, side, double in QUICK if options.quick else CASES:
        command = [sys.executable, "-m", "benchmarks.gradients", "--case", str(steps), side]
        lines, failure = process.run(command, _LIMIT, x64=double)
        record = {"config": {"steps": steps, "side": side}, "result": failure}
        record = record if failure else json.loads(lines[-1])
        page["records"].append(record | {"precision": "double" if double else "single"})
        print(_told(page["records"][-1]), flush=True)
        write(options.out or HERE / "results" / "gradients.json", page)
    return 0


def _told(record: dict[str, Any]) -> str:
    case = f"{record['config']['side']}, {record['config']['steps']} steps, {record['precision']}"
    if record["result"] != "successful":
        return f"{case}: {record['result']}"
    times = [f"{name} {record[name]['seconds']:.3g} s" for name in ("solve", "reverse", "forwards")]
    return f"{case}: {', '.join(times)}; {record['reverse']['process_mib']:.0f} MiB"


if __name__ == "__main__":
    sys.exit(main())
