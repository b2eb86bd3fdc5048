"""What came of it: a table for people, JSON for machines."""

import os
import sys
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .. import __version__
from .run import Finished
from .work import Record

_HEADS = ("steps", "max error", "at step", "final error", "solver steps", "grad. evals")

_CAPTION = "Errors: equation against discrete run. Time: with compilation, at a kind's first case."


def console() -> Console:
    """stdout; as wide as need be where it is not a terminal."""
    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 220
    return Console(width=wide, highlight=False)


def print_table(finished: list[Finished]) -> None:
    """One table: a row a case, a section a config."""
    several = len(finished) > 1
    keys = [] if several else finished[0].keys
    title = None if several else finished[0].config.title
    table = Table(box=SIMPLE_HEAD, title=title, caption=_CAPTION, padding=0)
    table.title_justify = table.caption_justify = "left"
    for head in ["config", "case"] if several else keys:
        justify = "left" if several else "right"
        table.add_column(_in_lines(head), justify=justify, no_wrap=not several, overflow="fold")
    for head in _HEADS:
        table.add_column(_in_lines(head), justify="right", no_wrap=True)
    table.add_column("time\n(s)", justify="right", no_wrap=True)
    table.add_column("result", overflow="fold")
    for config in finished:
        for i, record in enumerate(config.records):
            name = config.config.name if i == 0 else ""
            first = [name, words(record, config.keys)] if several else _values(record, keys)
            table.add_row(*first, *_numbers(record), _brief(record.result))
        table.add_section()
    out = console()
    out.print(table)
    for config in finished:
        out.print(_summary(config))


def tell_failures(finished: list[Finished]) -> None:
    """The advice for each case that failed, on stderr."""
    err = Console(stderr=True, highlight=False, soft_wrap=True)
    for config in finished:
        for record in config.records:
            if not record.okay:
                case = f"{config.config.name}: {words(record, config.keys)}"
                err.print(f"idemodels: failed: {case}: {record.result}", markup=False)


def as_json(finished: list[Finished]) -> dict[str, Any]:
    """The report of `--json`."""
    return {
        "version": __version__,
        "configs": [
            {
                "name": config.config.name,
                "title": config.config.title,
                "folder": str(config.folder),
                "figures": config.figures,
                "cases": len(config.config.cases),
                "solved": sum(record.okay for record in config.records),
                "interrupted": config.interrupted,
                "seconds": round(config.seconds, 3),
                "records": [asdict(record) for record in config.records],
            }
            for config in finished
        ],
    }


def words(record: Record, keys: list[str]) -> str:
    """Such as "learning_rate=0.1 b2=0.99"."""
    return " ".join(f"{key}={record.values[key]}" for key in keys if key in record.values)


def _in_lines(head: str) -> str:
    """Narrow: "learning_rate" over two lines."""
    return head.replace("_", " ").replace(" ", "\n")


def _values(record: Record, keys: list[str]) -> list[str]:
    return [str(record.values.get(key, "")) for key in keys]


def _numbers(record: Record) -> list[str]:
    error = lambda x: "-" if x is None else f"{x:.2e}"
    count = lambda x: "-" if x is None or x < 0 else str(x)
    seconds = "-" if record.seconds is None else f"{record.seconds:.2f}"
    return [
        str(record.steps),
        error(record.max_error),
        count(record.at),
        error(record.final_error),
        count(record.solver_steps),
        count(record.gradients),
        seconds,
    ]


def _brief(result: str) -> str:
    """The first sentence."""
    return result.split(". ")[0].rstrip(".")


def _summary(config: Finished) -> str:
    solved = sum(record.okay for record in config.records)
    return (
        f"{config.config.name}: {solved} of {len(config.config.cases)} cases solved in "
        f"{config.seconds:.1f} s; figures, table and trajectories are in {config.folder}"
    )
