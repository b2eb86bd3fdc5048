"""Whether derivatives are right: `python -m benchmarks.derivatives`.

The mean loss along 100 optimizer steps, differentiated in the logarithms of the learning rate and
of the decays' complements, by `idemodels.solve` as it is by default and at `rtol=1e-8`, in reverse
and forwards, in both precisions. Against them stand differences of fourth order between solves at
`rtol=1e-11` in double. The hyperparameters are drawn; a draw's error is that of its worst
derivative, over the largest of them.
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

STEPS, DRAWS = 100, 100
PROBLEMS = ("logistic regression", "Rosenbrock", "tanh network")
MODELS = ("Adam", "RMSProp", "RMSProp causal", "AdaGrad", "AdaGrad causal")
# What is asked for, by the tolerance: None is the default.
BARS = {None: 1e-2, 1e-8: 1e-6}
# The step of the differences, in a logarithm, and what they may differ from those of twice the step
# to be a reference: as a part of the bar.
STEP, _KNOWN = 2e-3, 0.1
# XLA's older code generator: most of the time here is compilation.
QUICK = {"xla_cpu_use_fusion_emitters": False}
PRECISIONS = {"double": "float64", "single": "float32"}
CASES = [
    (precision, rtol, mode)
    for precision, rtol in (("double", None), ("single", None), ("double", 1e-8))
    for mode in ("reverse", "forwards")
]
QUANTILES = (0.5, 0.9, 1.0)
_LIMIT, _MOST = 3600.0, 20_000


def drawn(model: str, problem: str, count: int) -> dict[str, np.ndarray]:
    """**Returns:** the logarithms of `count` sets of hyperparameters."""
    rng = np.random.default_rng([MODELS.index(model), PROBLEMS.index(problem)])
    found = {"learning_rate": rng.uniform(np.log(1e-4), np.log(0.3), count)}
    if model == "Adam":
        found["b1"] = rng.uniform(np.log(1e-2), 0.0, count)
    if not model.startswith("AdaGrad"):
        found["b2"] = rng.uniform(np.log(1e-5), np.log(0.5), count)
    return found


def made(model: str, logs: dict[str, Any]) -> Any:
    """**Returns:** the model of such logarithms."""
    import jax.numpy as jnp

    import idemodels as ide

    reading = "causal" if model.endswith("causal") else "closure"
    rate, decays = jnp.exp(logs["learning_rate"]), {k: -jnp.expm1(x) for k, x in logs.items()}
    if model == "Adam":
        return ide.Adam(rate, decays["b1"], decays["b2"])
    if model.startswith("RMSProp"):
        return ide.RMSProp(rate, decays["b2"], reading=reading)
    return ide.AdaGrad(rate, reading=reading)


def measure(model: str, problem: str, count: int) -> list[dict[str, Any]]:
    """**Returns:** the records of both modes at each tolerance, printed as they come."""
    import diffrax as dfx
    import jax
    import jax.numpy as jnp

    import idemodels as ide

    from .ordinary_problems import problems

    def mean_loss(logs, rtol, adjoint):
        dtype = logs["learning_rate"].dtype
        loss, theta0 = problems(dtype)[problem]
        method = ide.Markov() if rtol is None else ide.Markov(rtol=rtol, max_steps=_MOST)
        given = made(model, logs), loss, theta0, np.linspace(0.0, STEPS, 11)
        path = ide.solve(*given, method=method, adjoint=adjoint, throw=False)
        return jnp.mean(path.loss), path.stats["converged"] & ide.is_okay(path.result)

    logs = drawn(model, problem, count)
    right, apart = differences(model, *problems(jnp.float64)[problem], logs)
    records = []
    for precision, rtol, mode in CASES:
        adjoint = dfx.ForwardMode() if mode == "forwards" else None
        of = lambda x, rtol=rtol, adjoint=adjoint: mean_loss(x, rtol, adjoint)
        derivative = (jax.jacfwd if mode == "forwards" else jax.grad)(of, has_aux=True)
        typed = {k: jnp.asarray(x, PRECISIONS[precision]) for k, x in logs.items()}
        begin = time.perf_counter()
        # one after the other: together, all would take as many steps as the worst
        mapped = lambda x, derivative=derivative: jax.lax.map(derivative, x)
        program = jax.jit(mapped, compiler_options=QUICK)
        found, okay = jax.block_until_ready(program(typed))
        seconds = time.perf_counter() - begin
        error = np.max(np.abs(np.stack([found[k] for k in logs]) - right), axis=0)
        error = np.where(np.isfinite(error), error, np.inf) / np.max(np.abs(right), axis=0)
        bar, okay = BARS[rtol], np.asarray(okay)
        known = apart < _KNOWN * bar
        kept = error[known & okay]
        records.append(
            {
                **{"model": model, "problem": problem, "precision": precision, "rtol": rtol},
                **{"mode": mode, "bar": bar, "draws": count, "known": int(known.sum())},
                **{"unmarked": kept.size, "wrong": int(np.sum(kept > bar)), "seconds": seconds},
                "error": {f"{q:g}": float(np.quantile(kept, q)) for q in QUANTILES if kept.size},
            }
        )
        print(json.dumps(records[-1]), flush=True)
    return records


def differences(
    model: str, loss: Any, theta0: Any, logs: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Fourth-order differences of the mean loss in each of `logs`, by one sweep with Dopri8.

    **Returns:** them, of shape `(logs, draws)`, and by how much those of twice the step differ from
    them, over the largest of a draw; infinite where a solve failed.
    """
    import diffrax as dfx

    import idemodels as ide

    shifts = (-4, -2, -1, 1, 2, 4)
    points: dict[str, Any] = {
        name: np.stack(
            [[x + k * STEP * (name == moved) for k in shifts] for moved in logs]
        ).reshape(-1)
        for name, x in logs.items()
    }
    values = {k: np.exp(x) if k == "learning_rate" else -np.expm1(x) for k, x in points.items()}
    if "b2" in values and model.startswith("RMSProp"):
        values["decay"] = values.pop("b2")
    found = ide.sweep(
        made(model, {k: x[0] for k, x in logs.items()}),
        *(loss, theta0, STEPS, ide.points(values)),
        metrics={"mean_loss": lambda path, _: path.loss.mean()},
        method=ide.Markov(solver=dfx.Dopri8(), rtol=1e-11, atol=1e-13, max_steps=_MOST),
        save_ts=np.linspace(0, STEPS, 11).astype(int),
        **{"discrete": False, "progress": False},
    )
    shape = len(logs), len(shifts), -1
    at = np.moveaxis(found.mean_loss.values.reshape(shape), 1, 0)
    at = dict(zip(shifts, at, strict=True))
    slope = lambda k: (8.0 * (at[k] - at[-k]) - (at[2 * k] - at[-2 * k])) / (12.0 * k * STEP)
    right, crude = slope(1), slope(2)
    okay = np.all(found.status.values.reshape(-1, right.shape[-1]) == 0, axis=0)
    apart = np.max(np.abs(crude - right), axis=0) / np.max(np.abs(right), axis=0)
    return right, np.where(okay & np.isfinite(apart), apart, np.inf)


def main(arguments: list[str] | None = None) -> int:
    """Writes the record and the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.derivatives", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Adam on one problem, 10 draws")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="where the record goes")
    options = parser.parse_args(arguments)
    import jax

    jax.config.update("jax_enable_x64", True)  # the differences are in double
    if options.case:
        warnings.simplefilter("ignore")
        measure(*options.case[:2], int(options.case[2]))
        return 0
    page = provenance.page(JAX)
    groups = [(model, problem) for problem in PROBLEMS for model in MODELS]
    for model, problem in groups[:1] if options.quick else groups:
        count = str(10 if options.quick else DRAWS)
        command = [sys.executable, "-m", "benchmarks.derivatives", "--case", model, problem, count]
        lines, failure = process.run(command, _LIMIT, x64=True)
        if failure:
            print(f"{model}, {problem}: {failure}", file=sys.stderr)
            return 1
        found = [json.loads(line) for line in lines if line.startswith("{")]
        page["records"] += found
        print(*(_told(r) for r in found), sep="\n", flush=True)
        write(options.out or HERE / "results" / "derivatives.json", page)
    if not options.out:
        readme = HERE / "README.md"
        made_by = "benchmarks.derivatives"
        readme.write_text(insert(readme.read_text(), tables(page), made_by))
    return 0


def _told(r: dict[str, Any]) -> str:
    case = f"{r['model']}, {r['problem']}, {r['precision']}, {r['rtol'] or 'default'}, {r['mode']}"
    return f"{case}: {r['wrong']} wrong of {r['unmarked']}, at most {r['error'].get('1', 0):.0e}"


def tables(page: dict[str, Any]) -> dict[str, str]:
    """**Returns:** the table of the page: a row for each model, precision, tolerance and mode."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for r in page["records"]:
        rtol = "default" if r["rtol"] is None else f"{r['rtol']:.0e}"
        groups.setdefault((r["model"], r["precision"], rtol, r["mode"]), []).append(r)
    body = []
    for case, found in groups.items():
        total = lambda key, found=found: sum(r[key] for r in found)
        errors = [max(r["error"].get(f"{q:g}", 0.0) for r in found) for q in QUANTILES]
        counts = total("draws"), total("known"), total("unmarked")
        cells = *map(str, counts), *(f"{e:.0e}" for e in errors)
        body.append((*case, *cells, f"{found[0]['bar']:.0e}", str(total("wrong"))))
    head = (
        *("optimizer", "precision", "rtol", "mode", "draws", "known", "unmarked of these"),
        *("error, median", "90 %", "largest", "bar", "beyond it"),
    )
    words = (
        f"{page['machine']}, {page['cores']} cores; commit {page['commit'][:12]}"
        f"{' and changes' if page['dirty'] else ''}."
    )
    return {"derivatives": "\n\n".join([rows(head, body), words])}


if __name__ == "__main__":
    sys.exit(main())
