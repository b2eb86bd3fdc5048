"""`idemodels study`."""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from rich.table import Table

from .._config import DerivativeConfig, find_config, read_derivative, varying
from .._hyper import horizon, split, tune
from .._plot import descent_figure, horizon_figure, label, rendered
from .main import FAILED, OKAY
from .progress import Progress
from .provenance import where_from
from .report import brief, console
from .store import check_writable, write_json, write_rows, write_whole

# What a study found: a table, its figure, sentences, and the failures.
_Found = tuple[list[dict[str, Any]], Any, list[str], list[str]]


def study(arguments: argparse.Namespace) -> int:
    """`idemodels study KIND CONFIG`"""
    config = read_derivative(find_config(arguments.config), arguments.kind)
    folder = Path(arguments.out) / config.name
    check_writable(folder)
    jax.config.update("jax_enable_x64", config.precision == "float64")
    began = time.perf_counter()
    rows, figure, notes, failures = _KINDS[arguments.kind](config, arguments.quiet)
    write_rows(folder / f"{arguments.kind}.csv", rows)
    for suffix in ("png", "svg"):
        write_whole(folder / f"{arguments.kind}.{suffix}", rendered(figure, suffix))
    seconds = round(time.perf_counter() - began, 3)
    told = where_from(config) | {"seconds": seconds, "notes": notes, "failures": failures}
    write_json(folder / "provenance.json", told)
    if arguments.json:
        print(json.dumps(told | {"rows": rows}, indent=2))
    elif not arguments.quiet:
        _print(config, rows, [*notes, *failures], folder, seconds)
    return FAILED if failures else OKAY


def _hyper(config: DerivativeConfig, quiet: bool) -> _Found:
    (case,), table = config.cases, config.table
    parts = split(case.objective, table.held_out)
    start = case.start(config.precision)
    with Progress(table.updates + 1, quiet=quiet) as progress:
        given = (case.model, parts, start, case.steps, table.names, table.updates, table.rate)
        found = tune(*given, case.method, tell=progress.done)  # pyright: ignore[reportArgumentType]
    rows = [
        {"update": i}
        | {name: float(x[i]) for name, x in found.values.items()}
        | {f"slope in {name}": float(x[i]) for name, x in found.slopes.items()}
        | {
            "equation": float(found.equation[i]),
            "discrete": float(found.discrete[i]),
            "test": float(found.test[i]),
            "accuracy": float(found.accuracy[i]),
        }
        for i in range(len(found.equation))
    ]
    notes = []
    if rows:
        first, last = rows[0], rows[-1]
        words = ", ".join(f"{key} {first[key]:.4g} -> {last[key]:.4g}" for key in _MEASURED)
        notes = [f"From the first to the last: {words}."]
    return rows, descent_figure(config.title, found), notes, [found.failure] * bool(found.failure)


_MEASURED = ("equation", "discrete", "test", "accuracy")


def _horizon(config: DerivativeConfig, quiet: bool) -> _Found:
    table, shown = config.table, varying([case.values for case in config.cases])
    rows, sides, notes, failures = [], {}, [], []
    with Progress(len(config.cases), quiet=quiet) as progress:
        for case in config.cases:
            words = label(case.values, shown) or label(case.values, ["model"])
            start = case.start(config.precision)
            given = case.model, case.objective, start, case.marks, table.name, table.change
            sides[words] = pair = horizon(*given, case.method)
            plain = ", ".join(f"{key} = {case.values[key]}" for key in shown)
            for side, name in zip(pair, ("equation", "discrete"), strict=True):
                chosen = {key: case.values[key] for key in shown} | {"side": name}
                columns = side.ts, side.loss, side.slope, side.secant, side.missed
                heads = ("horizon", "loss", "slope", "secant", "missed")
                values = zip(*(x.tolist() for x in columns), strict=True)
                rows += [chosen | dict(zip(heads, row, strict=True)) for row in values]
                if not side.okay:
                    failures.append(f"{plain}: the {name} run was not solved to its end.")
            notes.append(
                f"{plain}: the derivative says what a change of {table.change:g} does up to step "
                f"{pair[0].useful_until} of the equation, {pair[1].useful_until} of the discrete "
                f"run, of {case.steps}."
            )
            progress.done(words)
    return rows, horizon_figure(config.title, table.name, sides), notes, failures


_KINDS: Mapping[str, Callable[[DerivativeConfig, bool], _Found]] = {
    "hyper": _hyper,
    "horizon": _horizon,
}
# Rows of a table on the terminal; all of them are in the file.
_LINES = 12


def _print(config, rows, notes: list[str], folder: Path, seconds: float) -> None:
    out = console()
    every = max(1, -(-len(rows) // _LINES))
    table = Table(title=config.title, box=None, title_justify="left")
    for name in rows[0] if rows else ():
        table.add_column(name, justify="right")
    for row in rows[::every]:
        table.add_row(*(brief(x) for x in row.values()))
    out.print(table)
    for note in notes:
        out.print(note)
    out.print(f"{len(rows)} rows in {seconds:.1f} s; all in {folder}")
