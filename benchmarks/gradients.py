"""What derivatives cost beside the solve: `python -m benchmarks.gradients`.

The final loss of the digits network under Adam, differentiated in the learning rate and in both
decays, in reverse and forwards, through the solver and through the unrolled discrete run. Each case
runs alone, in a process of its own.
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
from .meter import best_of, peak_memory, reset_peak
from .records import HERE, write

VALUES = {"learning_rate": 1e-3, "b1": 0.9, "b2": 0.999}
RTOL, ATOL = 1e-5, 1e-8
SIDES = ("equation", "discrete")
HORIZONS = (500, 2000, 8000)
# Horizon, side, and whether in double precision.
CASES = [(steps, side, False) for steps in HORIZONS for side in SIDES]
CASES += [(2000, side, True) for side in SIDES]
QUICK = CASES[:2]
_LIMIT = 1800.0


def measure(steps: int, side: str) -> dict[str, Any]:
    """**Returns:** the record of a case, in the precision that is set."""
    import diffrax
    import jax
    import jax.numpy as jnp

    import idemodels as ide

    objective = ide.DigitsMLP()
    method = ide.Markov(rtol=RTOL, atol=ATOL)

    def run(values, adjoint=None):
        given = ide.Adam(**values), objective, objective.theta0
        if side == "discrete":
            path = ide.run_discrete(*given, steps, ts=[steps])
        else:
            ts = np.array([0.0, steps])
            path = ide.solve(*given, ts, method=method, adjoint=adjoint, throw=False)
        return path.loss[-1], (path.stats["num_steps"], ide.is_okay(path.result))

    forwards = jax.jacfwd(lambda values: run(values, diffrax.ForwardMode())[0])
    programs = {
        "solve": run,
        "reverse": jax.grad(run, has_aux=True),
        "forwards": lambda values: (forwards(values), None),
    }
    values = {name: jnp.asarray(value) for name, value in VALUES.items()}
    found: dict[str, Any] = {
        "config": {"steps": steps, "side": side, "values": VALUES, "rtol": RTOL, "atol": ATOL},
        "python": platform.python_version(),
        "versions": provenance.versions(JAX),
        **provenance.device(),
    }
    for name, program in programs.items():
        begin = time.perf_counter()
        # optax's count is an integer, and its tangent mixes with floats
        with jax.numpy_dtype_promotion("standard"):
            compiled = jax.jit(program).lower(values).compile()
        compile_s = time.perf_counter() - begin
        before = reset_peak()
        out, more = jax.block_until_ready(compiled(values))
        peak = peak_memory()
        found[name] = {
            "seconds": best_of(lambda compiled=compiled: compiled(values)),
            "compile_s": compile_s,
            "peak_mib": None if before is None or peak is None else (peak - before) / 2**20,
        }
        if name == "solve":
            found["loss"], found["solver_steps"] = float(out), int(more[0])
            found["result"] = "successful" if bool(more[1]) else "failed"
        else:
            found[name]["gradient"] = {key: float(x) for key, x in out.items()}
    return found


def main(arguments: list[str] | None = None) -> int:
    """Writes the record."""

    parser = argparse.ArgumentParser(prog="python -m benchmarks.gradients", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="500 steps only")
    parser.add_argument("--case", nargs=2, metavar=("STEPS", "SIDE"), help="this one, printed")
    parser.add_argument("--out", type=Path, help="where the record goes")
    options = parser.parse_args(arguments)
    if options.case:
        print(json.dumps(measure(int(options.case[0]), options.case[1])))
        return 0
    page = {**provenance.source(), **provenance.machine(), **provenance.device()}
    page |= {"versions": provenance.versions(JAX), "records": []}
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
    base = record["solve"]["seconds"]
    times = [f"{name} {record[name]['seconds'] / base:.1f}" for name in ("reverse", "forwards")]
    return f"{case}: {base:.3g} s; times as long: {', '.join(times)}"


if __name__ == "__main__":
    sys.exit(main())
