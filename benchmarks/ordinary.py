"""What a solve costs on problems that everybody has: `python -m benchmarks.ordinary`.

`Markov()` on twelve problems, three optimizers, three rates, 500 optimizer steps: the gradients for
each of them (the optimizer itself takes one), the error against a splitting of the equation with 64
and 128 parts of a step, and the distance to the discrete run. Then on four more problems, under
models, rates and numbers of steps that were drawn once and not looked at before. In both
precisions, each problem in a process of its own: the programs of all would not fit into one.
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

STEPS, KICKS, DRAWS = 500, 64, 60
MODELS = (
    ("Adam", {}, (0.01, 0.05, 0.1)),
    ("RMSProp", {"decay": 0.99}, (0.01, 0.05, 0.1)),
    ("AdaGrad", {}, (0.05, 0.25, 0.5)),
)
_LIMIT = 3600.0
# What the reference's own error may be, of the path's range, for it to be one.
_KNOWN = 1e-3


def chosen() -> list[tuple[str, Any, int]]:
    """**Returns:** the cases of the table: a problem's name, a model, and optimizer steps."""
    import jax.numpy as jnp

    import idemodels as ide

    from .ordinary_problems import problems

    return [
        (problem, getattr(ide, kind)(rate, **more), STEPS)
        for problem in problems(jnp.float64)
        for kind, more, rates in MODELS
        for rate in rates
    ]


def drawn() -> list[tuple[str, Any, int]]:
    """**Returns:** cases of the second set; on networks with 2,000 steps at most."""
    import jax.numpy as jnp

    import idemodels as ide

    from .ordinary_problems import others

    rng, cases, names = np.random.default_rng(20), [], list(others(jnp.float64))
    for i in range(DRAWS):
        problem = names[i % len(names)]
        rate = float(np.exp(rng.uniform(np.log(1e-4), np.log(0.3))))
        b1 = float(rng.choice([0.0, 0.5, 0.9, 0.99]))
        b2 = float(rng.choice([0.5, 0.9, 0.99, 0.999, 0.99999]))
        reading = str(rng.choice(["closure", "causal"]))
        steps = int(rng.choice([200, 2000, 20_000]))
        model = (
            ide.Adam(rate, b1=b1, b2=b2),
            ide.RMSProp(rate, b2, reading=reading),
            ide.AdaGrad(rate, reading=reading),
        )[rng.integers(3)]
        dear = problem in ("convolution", "digits")
        cases.append((problem, model, min(steps, 2000) if dear else steps))
    return cases


def measure(double: bool, names: list[str] | None = None) -> list[dict[str, Any]]:
    """**Returns:** the records of all cases, printed as they come, in one precision."""
    import jax
    import jax.numpy as jnp

    import idemodels as ide

    from .ordinary_problems import others, problems, splitting

    dtype, records = jnp.float64 if double else jnp.float32, []
    exact, ours = (problems(t) | others(t) for t in (jnp.float64, dtype))
    cases = [(False, *case) for case in chosen()] + [(True, *case) for case in drawn()]
    for is_drawn, problem, model, steps in cases:
        if names and problem not in names:
            continue
        kicks = KICKS if steps == STEPS else KICKS // 4
        crude, fine = (
            np.asarray(splitting(model, *exact[problem], steps, k)) for k in (kicks, 2 * kicks)
        )
        right = fine + (fine - crude) / 3.0
        size = np.abs(right - right[0]).max()
        run = ide.run_discrete(model, *exact[problem], steps)
        begin = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = ide.solve(model, *ours[problem], np.arange(steps + 1.0), throw=False)
        jax.block_until_ready(path.theta)
        seconds = time.perf_counter() - begin

        def apart(theta, right=right, size=size):
            flat = [np.asarray(x, float).reshape(len(right), -1) for x in jax.tree.leaves(theta)]
            return float(np.abs(np.concatenate(flat, 1) - right).max() / size)

        hyperparameters = {
            name: getattr(model, name)
            for name in ("b1", "b2", "decay", "reading", "learning_rate")
            if hasattr(model, name)
        }
        records.append(
            {
                "problem": problem,
                "optimizer": type(model).__name__,
                **{k: v if isinstance(v, str) else float(v) for k, v in hyperparameters.items()},
                "steps": steps,
                "drawn": is_drawn,
                "precision": "double" if double else "single",
                "result": "successful" if bool(ide.is_okay(path.result)) else "failed",
                "gradients": int(path.stats["num_gradients"]) / steps,
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
    import jax

    jax.config.update("jax_enable_x64", True)  # the reference is in double
    if options.case:
        measure(options.case[0] == "double", options.case[1:])
        return 0
    page = provenance.page(JAX)
    names = ["parabola"] if options.quick else dict.fromkeys(n for n, *_ in [*chosen(), *drawn()])
    for precision in ("double",) if options.quick else ("double", "single"):
        for name in names:
            command = [sys.executable, "-m", "benchmarks.ordinary", "--case", precision, name]
            lines, failure = process.run(command, _LIMIT, x64=True)
            if failure:
                print(f"{name}, {precision}: {failure}", file=sys.stderr)
                return 1
            found = [json.loads(line) for line in lines if line.startswith("{")]
            page["records"] += found
            for r in found:
                kind, rate = r["optimizer"], r["learning_rate"]
                print(f"{name}, {kind}({rate:.2g}), {precision}: {_cell(r)}", flush=True)
            write(options.out or HERE / "results" / "ordinary.json", page)
    print(*told(page["records"]), sep="\n", flush=True)
    if not options.out:
        readme = HERE / "README.md"
        readme.write_text(insert(readme.read_text(), tables(page), "benchmarks.ordinary"))
    return 0


def tables(page: dict[str, Any]) -> dict[str, str]:
    """**Returns:** the table of the page: a row for each problem and optimizer."""
    body: list[Any] = []
    lines = told(page["records"])
    records = [r for r in page["records"] if not r["drawn"]]
    for problem in dict.fromkeys(r["problem"] for r in records):
        for kind, _, rates in MODELS:
            cells = []
            for precision in ("double", "single"):
                mine = {
                    r["learning_rate"]: r
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


def told(records: list[dict[str, Any]]) -> list[str]:
    """The figures of each set in each precision: a line for each."""
    lines = []
    for drawn in (False, True):
        for precision in ("double", "single"):
            found = [r for r in records if (r["drawn"], r["precision"]) == (drawn, precision)]
            if not found:
                continue
            costs = [r["gradients"] for r in found]
            okay = sum(r["result"] == "successful" for r in found)
            marked = sum(not r["converged"] for r in found)
            known = [r for r in found if r["converged"] and r["reference"] < _KNOWN]
            lines.append(
                f"- {'drawn' if drawn else 'twelve problems'}, {precision}: {okay} of {len(found)} "
                f"end; gradients for each optimizer step: median {np.median(costs):.2g}, at most "
                f"{max(costs):.2g}; {marked} are marked as not converged; the error of "
                f"{len(known)} others is {max(r['error'] for r in known):.0e} of the range at most"
            )
    return lines


if __name__ == "__main__":
    sys.exit(main())
