"""What a solve costs on problems that everybody has: `python -m benchmarks.ordinary`.

`Markov(rtol=1e-3, steady_tol="rtol", max_gradients=4)` on twelve problems, three optimizers, three
rates, both precisions, 500 optimizer steps: the gradients for each of them (the optimizer itself
takes one), the error against a splitting of the equation with 64 and 128 parts of a step, and the
distance to the discrete run. Each precision in its own process.
"""

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from . import process, provenance
from .contestants import JAX
from .records import HERE, insert, rows, write

STEPS, KICKS, RTOL, PRICE = 500, 64, 1e-3, 4
MODELS = (
    ("Adam", {}, (0.01, 0.05, 0.1)),
    ("RMSProp", {"decay": 0.99}, (0.01, 0.05, 0.1)),
    ("AdaGrad", {}, (0.05, 0.25, 0.5)),
)
_LIMIT = 3600.0


def measure(double: bool, names: list[str] | None = None) -> list[dict[str, Any]]:
    """**Returns:** the records of all cases, printed as they come, in one precision."""
    import jax
    import jax.numpy as jnp

    import idemodels as ide

    from .ordinary_problems import problems, splitting

    jax.config.update("jax_enable_x64", True)  # the reference is in double
    dtype, records = jnp.float64 if double else jnp.float32, []
    method = ide.Markov(rtol=RTOL, steady_tol="rtol", max_gradients=PRICE)
    exact, ours = problems(jnp.float64), problems(dtype)
    for problem in names or exact:
        for kind, more, rates in MODELS:
            for rate in rates:
                model = getattr(ide, kind)(rate, **more)
                crude, fine = (
                    np.asarray(splitting(model, *exact[problem], STEPS, k))
                    for k in (KICKS, 2 * KICKS)
                )
                right = fine + (fine - crude) / 3.0
                size = np.abs(right - right[0]).max()
                run = ide.run_discrete(model, *exact[problem], STEPS)
                begin = time.perf_counter()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    path = ide.solve(
                        model, *ours[problem], np.arange(STEPS + 1.0), method=method, throw=False
                    )
                jax.block_until_ready(path.theta)
                seconds = time.perf_counter() - begin
                apart = lambda x, right=right, size=size: float(
                    np.abs(np.asarray(x, float) - right).max() / size
                )
                records.append(
                    {
                        "problem": problem,
                        "optimizer": kind,
                        "rate": rate,
                        "precision": "double" if double else "single",
                        "result": "successful" if bool(ide.is_okay(path.result)) else "failed",
                        "gradients": int(path.stats["num_gradients"]) / STEPS,
                        "error": apart(path.theta),
                        "converged": bool(path.stats["converged"]),
                        "run": apart(run.theta),
                        "reference": float(np.abs(right - fine).max() / size),
                        "seconds": seconds,
                    }
                )
                print(json.dumps(records[-1]), flush=True)
    return records


def main(arguments: list[str] | None = None) -> int:
    """Writes the record, and tells the figures of each precision."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ordinary", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a parabola only, in double")
    parser.add_argument("--case", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="where the record goes")
    options = parser.parse_args(arguments)
    if options.case:
        measure(options.case[0] == "double", options.case[1:])
        return 0
    page = {**provenance.source(), **provenance.machine(), **provenance.device()}
    page |= {"versions": provenance.versions(JAX), "records": []}
    for precision in ("double",) if options.quick else ("double", "single"):
        names = ["parabola"] if options.quick else []
        command = [sys.executable, "-m", "benchmarks.ordinary", "--case", precision, *names]
        lines, failure = process.run(command, _LIMIT, x64=True)
        if failure:
            print(f"{precision}: {failure}", file=sys.stderr)
            return 1
        found = [json.loads(line) for line in lines if line.startswith("{")]
        page["records"] += found
        print(told(precision, found), flush=True)
        write(options.out or HERE / "results" / "ordinary.json", page)
    if not options.out:
        readme = HERE / "README.md"
        readme.write_text(insert(readme.read_text(), tables(page), "benchmarks.ordinary"))
    return 0


def tables(page: dict[str, Any]) -> dict[str, str]:
    """**Returns:** the table of the page: a row for each problem and optimizer."""
    records, body, lines = page["records"], [], []
    for precision in ("double", "single"):
        found = [r for r in records if r["precision"] == precision]
        if found:
            lines.append("- " + told(precision, found))
    for problem in dict.fromkeys(r["problem"] for r in records):
        for kind, _, rates in MODELS:
            cells = []
            for precision in ("double", "single"):
                mine = {
                    r["rate"]: r
                    for r in records
                    if (r["problem"], r["optimizer"], r["precision"]) == (problem, kind, precision)
                }
                cells += [_cell(mine[rate]) if rate in mine else "-" for rate in rates]
            distances = ", ".join(f"{mine[rate]['run']:.0e}" for rate in rates if rate in mine)
            body.append((problem, kind, ", ".join(map(str, rates)), *cells, distances))
    three = lambda precision: (f"{precision}: lowest rate", "middle", "highest")
    head = ("problem", "optimizer", "rates", *three("double"), *three("single"), "discrete run")
    words = (
        f"{page['machine']}, {page['cores']} cores; commit {page['commit'][:12]}"
        f"{' and changes' if page['dirty'] else ''}."
    )
    return {"ordinary": "\n\n".join(["\n".join(lines), rows(head, body), words])}


def _cell(r: dict[str, Any]) -> str:
    if r["result"] != "successful":
        return "fails"
    mark = "" if r["converged"] else " *"
    return f"{r['gradients']:.2g} ({r['error']:.0e}){mark}"


def told(precision: str, records: list[dict[str, Any]]) -> str:
    """The figures of a precision in a line."""
    costs = [r["gradients"] for r in records]
    okay = sum(r["result"] == "successful" for r in records)
    marked = sum(not r["converged"] for r in records)
    known = [r["error"] for r in records if r["converged"]]
    return (
        f"{precision}: {okay} of {len(records)} end; gradients for each optimizer step: median "
        f"{np.median(costs):.2g}, at most {max(costs):.2g}; {marked} are marked as not converged; "
        f"the others' error is {max(known):.0e} of the path's range at most"
    )


if __name__ == "__main__":
    sys.exit(main())
