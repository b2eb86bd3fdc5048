"""Interpolating flows of optax's optimizers: `python -m benchmarks.flows`.

Solves flows of order 1 to 4 of every optimizer on a parabola with three curvatures, for three
learning rates, and follows the digits network over 5000 steps. Writes the orders that are seen, and
the gradients that the digits took, to `results/flows.json`, tables of them to the README, and with
`--figure` the figure of the errors at every step.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from . import flow_digits, provenance
from .flow_tables import tables
from .records import HERE, insert, write

_README = HERE.parent / "README.md"
_ALPHAS, _TIME, _EXACT = (0.02, 0.01, 0.005), 2.0, 0.5
_ORDERS = (1, 2, 3, 4)
_PACKAGES = ("idemodels", "jax", "diffrax", "optax")


def record(name: str) -> dict[str, Any]:
    """**Returns:** the orders of an optimizer's flows, or why there are none."""
    import idemodels as ide

    from .flow_optimizers import OPTIMIZERS

    make, objective, theta0 = OPTIMIZERS[name], *_problem()
    method = ide.Markov(rtol=1e-11, atol=1e-13, max_steps=3000)
    found: dict[str, Any] = {"optimizer": name, "result": ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            steps = round(_TIME / _ALPHAS[0])
            said = ide.analysis.smoothness(make(_ALPHAS[0]), objective, theta0, steps).statement
            for side, exact in (("from_start", 0.0), ("later", _EXACT)):
                study = ide.analysis.order_study(
                    make,
                    *(objective, theta0, _TIME, _ALPHAS, _ORDERS),
                    exact_time=exact,
                    method=method,
                )
                found[side] = {"slopes": _plain(study.slopes), "errors": _plain(study.errors)}
    except (ValueError, TypeError, AttributeError) as e:
        found["result"] = f"refused: {provenance.first_line(e).removeprefix('Argument `tx` ')}"
    else:
        found["result"] = "" if said is None else f"flagged: {said.split('. ')[0]}"
    return found


def _problem() -> tuple[Any, Any]:
    import jax.numpy as jnp

    import idemodels as ide

    return ide.Quadratic(np.array([1.0, 2.0, 4.0]), np.array([4.0, 3.0, -2.0])), jnp.ones(3)


def _plain(x: Any) -> Any:
    """Numbers as JSON has them; `None` for NaN."""
    if np.ndim(x):
        return [_plain(y) for y in x]
    return float(f"{float(x):.4g}") if np.isfinite(x) else None


def main(arguments: list[str] | None = None) -> int:
    """Writes the record, and the table in the README."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flows", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two optimizers only")
    parser.add_argument("--resume", action="store_true", help="runs what the record lacks")
    parser.add_argument("--page", action="store_true", help="runs nothing: table from the record")
    parser.add_argument("--figure", action="store_true", help="only the figure")
    parser.add_argument("--out", type=Path, default=HERE, metavar="DIR", help="for the records")
    parser.add_argument("--readme", type=Path, default=_README, help="where the table stands")
    options = parser.parse_args(arguments)
    if options.figure:
        from .flow_figure import draw

        draw(options.out / "figures" / "flow_error.svg")
        return 0
    path = options.out / "results" / "flows.json"
    if not options.page:
        _measure(path, options.quick, options.resume)
    page = json.loads(path.read_text())
    text = insert(options.readme.read_text(), tables(page), "benchmarks.flows")
    options.readme.write_text(text)
    return 0


def _measure(path: Path, quick: bool, resume: bool) -> None:
    import jax

    from .flow_optimizers import OPTIMIZERS

    jax.config.update("jax_enable_x64", True)
    there = json.loads(path.read_text()) if resume else {"records": []}
    digits = there.get("digits") or ([] if quick else flow_digits.records())
    # small problems: the time is compilation
    jax.config.update("jax_disable_most_optimizations", True)
    known, records = {record["optimizer"]: record for record in there["records"]}, []
    for name in list(OPTIMIZERS)[: 2 if quick else None]:
        records.append(known.get(name) or record(name))
        slopes = (records[-1].get("later") or {}).get("slopes")
        print(f"{name:28} {slopes} {records[-1]['result'][:90]}", flush=True)
        jax.clear_caches()
        page = {
            **provenance.source(),
            **provenance.machine(),
            **provenance.device(),
            "versions": provenance.versions(_PACKAGES),
            "alphas": list(_ALPHAS),
            "time": _TIME,
            "exact_time": _EXACT,
            "digits": digits,
            "records": records,
        }
        # after each, so that a run that is broken off leaves what it found
        write(path, page)


if __name__ == "__main__":
    sys.exit(main())
