"""The same problems through idemodels and the public peers: `python -m benchmarks.peers`."""

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from . import process, provenance
from .peer_tables import tables
from .problems import LONG, PROBLEMS
from .records import HERE, Record, insert, write
from .solvers.authors import CHECKOUT

SOLVERS = ("ours", "voles", "idesolver", "phydrax", "authors")
_NO_RECORD = {"python": None, "versions": None}


def cases(quick: bool) -> list[tuple[str, str, dict[str, Any] | None]]:
    """**Returns:** solver, problem and setting of each; None where the solver cannot express it."""
    out: list[tuple[str, str, dict[str, Any] | None]] = []
    for problem in PROBLEMS:
        for solver in SOLVERS:
            module = importlib.import_module(f".solvers.{solver}", __package__)
            settings = module.SETTINGS.get(problem)
            if settings is None:
                out.append((solver, problem, None))
                continue
            chosen = settings[:1] if quick else settings
            out += [(solver, problem, setting) for setting in chosen]
    steps = [n for n in LONG if (n < 10_000) == quick]
    return out + [("ours", str(n), {"method": "History", "substeps": 1}) for n in steps]


def run_case(
    solver: str, problem: str, setting: dict[str, Any] | None, python: str, limit: float
) -> Record:
    """**Returns:** the record of a case that runs in a process of its own."""
    known = PROBLEMS[problem] if problem in PROBLEMS else LONG[int(problem)]
    record = {"solver": solver, "problem": problem, "setting": setting}
    record |= {"reference": known.reference, "max_error": None}
    if setting is None:
        module = importlib.import_module(f".solvers.{solver}", __package__)
        return record | _NO_RECORD | {"result": f"cannot: {module.REFUSED[problem]}"}
    command = [python, "-m", "benchmarks.case", solver, problem, json.dumps(setting)]
    lines, failure = process.run(command, limit)
    if failure:
        return record | _NO_RECORD | {"result": failure}
    found = json.loads(lines[-1])
    theta = found.pop("theta", None)
    if theta is not None:
        error = np.max(np.abs(np.array(theta) - known.exact()))
        record["max_error"] = float(error) if np.isfinite(error) else None
    return record | found


def main(arguments: list[str] | None = None) -> int:
    """Runs all cases, one after another; writes the records and, with no `--out`, the README."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one setting each, N = 2,500")
    parser.add_argument("--out", type=Path, help="where the records go; the README stays as it is")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds a case, 240")
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="SOLVER=PYTHON",
        help="the Python that has this solver, where it is not this one",
    )
    parser.add_argument("--authors", metavar="DIR", help="a checkout of the authors' repository")
    options = parser.parse_args(arguments)
    pythons = dict.fromkeys(SOLVERS, sys.executable)
    for pair in options.python:
        solver, _, python = pair.partition("=")
        if solver not in SOLVERS or not python:
            parser.error(f"--python must be SOLVER=PYTHON with one of {SOLVERS}, but is {pair!r}")
        pythons[solver] = python
    if options.authors:
        os.environ[CHECKOUT] = str(Path(options.authors).resolve())

    begin, records = time.perf_counter(), []
    for solver, problem, setting in cases(options.quick):
        record = run_case(solver, problem, setting, pythons[solver], options.limit)
        records.append(record)
        error, best = record["max_error"], record.get("best_s")
        print(f"{solver:10} {problem:9} {setting} error {error} best_s {best} {record['result']}")
    page = {
        **provenance.source(),
        "quick": options.quick,
        **provenance.machine(),
        "seconds": time.perf_counter() - begin,
        "records": records,
    }
    write(options.out or HERE / "results" / "peers.json", page)
    if options.out is None:
        readme = HERE / "README.md"
        readme.write_text(insert(readme.read_text(), tables(page), "benchmarks.peers"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
