"""Work against precision, of every solver on every problem: `python -m benchmarks`.

Writes the records, the figures and the page that is made of them. Each curve runs alone, in a
process of its own. References are computed first where they are not kept (some take minutes): in
the folder that the environment's IDEMODELS_REFERENCES names, or in `results/references`.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import process, provenance, scale
from .contestants import CONTESTANTS, pairs, settings
from .descents import DESCENTS
from .figures import draw
from .records import HERE, Record, insert, write
from .references import how, kept_at
from .solvers import Unavailable
from .work_tables import tables


def main(arguments: list[str] | None = None) -> int:
    """Runs all cases, one after another; writes records, figures and the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few problems, solvers and tolerances")
    parser.add_argument(
        "--out", type=Path, default=HERE, metavar="DIR", help="instead of this package's folder"
    )
    parser.add_argument("--limit", type=float, default=30.0, help="seconds a curve, at most; 30")
    parser.add_argument(
        "--page", action="store_true", help="runs nothing: figures and page from the records kept"
    )
    options = parser.parse_args(arguments)
    results = options.out / "results"
    if not options.page:
        for name, cases in zip(FILES, (work, large), strict=True):
            begin, records = time.perf_counter(), []
            for record in cases(options.quick, options.limit):
                records.append(record)
                # after each, so that a run that is broken off leaves what it found
                seconds = time.perf_counter() - begin
                write(results / name, _page(options.quick, seconds, records))
    pages = [json.loads((results / name).read_text()) for name in FILES]
    others = [json.loads((HERE / "results" / name).read_text()) for name in ALONE]
    draw(pages[0], options.out / "figures")
    readme = options.out / "README.md"
    if not readme.exists():
        shutil.copy(HERE / "README.md", readme)
    readme.write_text(insert(readme.read_text(), tables(*pages, *others), "benchmarks"))
    return 0


FILES = ("work_precision.json", "scale.json")
# Those of the commands `python -m benchmarks.peers`, `.sweep` and `.gradients`.
ALONE = ("peers.json", "sweep.json", "gradients.json")
# How many limits the network's curves have, and how many a large network's solve.
_LARGER = 3.0


def work(quick: bool, limit: float) -> Iterator[Record]:
    """**Returns:** a record for each curve."""
    cases = pairs(quick)
    failures = {problem: _reference(problem) for problem in dict.fromkeys(p for p, _ in cases)}
    for problem, name in cases:
        allowed = limit * (_LARGER if DESCENTS[problem].loss == "digits" else 1.0)
        record = curve(problem, name, quick, allowed, failures[problem])
        error, points = record["error"], len(record["points"])
        told = f"{points} points, least error {error:.0e}" if error is not None else "no error"
        _say(f"{problem:16} {name:15} {told}; {record['result']}")
        yield record


def curve(problem: str, name: str, quick: bool, limit: float, failure: str = "") -> Record:
    """**Returns:** the record of a contestant's curve on a problem.

    Its `error` is the least of its points', its `result` that of the first point that failed.
    """
    contestant, descent = CONTESTANTS[name], DESCENTS[problem]
    record: Record = {
        "problem": problem,
        "contestant": name,
        "config": descent.config | {"solver": contestant.label, "quick": quick},
        "reference": how(problem),
        "commit": provenance.source()["commit"],
        "error": None,
        "result": f"no reference: {failure}" if failure else "successful",
    }
    try:
        settings(problem, name, quick)
    except Unavailable as e:
        record["result"] = f"not run: {e}"
    points: list[dict[str, Any]] = []
    if record["result"] == "successful":
        arguments = [problem, name, *(["--quick"] if quick else [])]
        command = [sys.executable, "-m", "benchmarks.curve", *arguments]
        lines, failure = process.run(command, limit)
        begun = None
        for line in map(json.loads, lines):
            record |= line.get("head", {})
            begun = line.get("begun")
            if "point" in line:
                points.append(line["point"])
        if failure and (begun is not None or not points):
            points.append((begun or {}) | {"result": failure, "error": None})
        failed = [p["result"] for p in points if p["result"] != "successful"]
        errors = [p["error"] for p in points if p["error"] is not None]
        record["error"] = min(errors, default=None)
        if record["result"] == "successful" and failed:
            record["result"] = failed[0]
    return record | {"points": points}


def large(quick: bool, limit: float) -> Iterator[Record]:
    """**Returns:** a record for each network and contestant; each may take some limits."""
    for key, size in list(scale.SIZES.items())[: 1 if quick else None]:
        for name in scale.QUICK if quick else scale.CONTESTANTS:
            command = [sys.executable, "-m", "benchmarks.scale", key, name]
            record: Record = {
                "problem": key,
                "contestant": name,
                "config": scale.config(size, name),
                "commit": provenance.source()["commit"],
                "error": None,
            }
            lines, failure = process.run(command, _LARGER * limit, x64=False)
            record |= {"result": failure} if failure else json.loads(lines[-1])
            _say(f"{size.parameters:9,} parameters {name:12} {record['result']}")
            yield record


def _reference(problem: str) -> str:
    """Why there is no reference, or nothing."""
    if kept_at(problem).exists():
        return ""
    _say(f"{problem:16} reference: {how(problem)}")
    return process.run([sys.executable, "-m", "benchmarks.references", problem], 600.0)[1]


def _page(quick: bool, seconds: float, records: list[Record]) -> dict[str, Any]:
    head = {**provenance.source(), "quick": quick, **provenance.machine()}
    return {**head, "seconds": round(seconds, 1), "records": records}


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
