"""What came of it: a table for people, JSON for machines."""

import math
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .. import __version__
from .._study import Finding
from .run import Finished
from .work import Record

_CAPTION = (
    "max, last: error of the model, against the discrete run; solver: of the solver alone.\n"
    "Time: with compilation, at a kind's first case."
)


def number(x: Any) -> str:
    """In three digits; counts as they are, and nothing as "-"."""
    if x is None or (isinstance(x, float) and math.isnan(x)):
        return "-"
    return f"{x:.2e}" if isinstance(x, float) else str(x)


def brief(x: Any) -> str:
    """As `number`, but what is short as it is, such as a hyperparameter, in full."""
    if not isinstance(x, float) or not math.isfinite(x):
        return number(x)
    return f"{x:.4g}" if 1.0 <= abs(x) < 1e5 or float(f"{x:.3g}") == x else number(x)


class Column(NamedTuple):
    """A column of the table: its heading, how it is read off a record, and written."""

    head: str
    read: Callable[[Record], Any]
    write: Callable[[Any], str] = number


COLUMNS = (
    Column("steps", lambda record: record.steps),
    Column("max error", lambda record: record.max_error),
    Column("at step", lambda record: record.at),
    Column("last error", lambda record: record.final_error),
    Column("solver error", lambda record: record.solver_error),
)
# Of some methods and models only.
SPECIAL = (
    Column("fixed point", lambda record: record.residual),
    Column("extension doubled", lambda record: record.extension_doubled),
    Column("extension zeroed", lambda record: record.extension_zeroed),
    Column("times v < 0", lambda record: record.num_clamped),
    Column("v > 0 until", lambda record: record.positive_until, brief),
)


def console() -> Console:
    """stdout; as wide as need be where it is not a terminal."""
    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 220
    return Console(width=wide, highlight=False)


def print_table(finished: list[Finished]) -> None:
    """One table: a row a case, a section a config."""
    several = len(finished) > 1
    keys = [] if several else finished[0].varying
    title = None if several else heading(finished[0])
    table = Table(box=SIMPLE_HEAD, title=title, caption=_CAPTION, padding=0)
    table.title_justify = table.caption_justify = "left"
    for head in ["config", "case"] if several else keys:
        justify = "left" if several else "right"
        table.add_column(_in_lines(head), justify=justify, overflow="fold")
    for column in COLUMNS:
        table.add_column(_in_lines(column.head), justify="right", no_wrap=True)
    table.add_column("time\n(s)", justify="right", no_wrap=True)
    table.add_column("result", overflow="fold")
    for config in finished:
        for i, record in enumerate(config.records):
            name = config.config.name if i == 0 else ""
            first = [name, words(record, config.keys)] if several else _values(record, keys)
            numbers = [column.write(column.read(record)) for column in COLUMNS]
            seconds = "-" if record.seconds is None else f"{record.seconds:.2f}"
            table.add_row(*first, *numbers, seconds, _brief(record.result))
        table.add_section()
    out = console()
    out.print(table)
    for config in finished:
        if config.finding is not None and not several:
            out.print(_study_table(config.finding))
        out.print(_summary(config))


def tell_failures(finished: list[Finished]) -> None:
    """The advice for each case that failed, and what is doubtful, on stderr."""
    err = Console(stderr=True, highlight=False, soft_wrap=True)
    for config in finished:
        for record in config.records:
            case = f"{config.config.name}: {words(record, config.keys)}"
            if not record.okay:
                err.print(f"idemodels: failed: {case}: {record.result}", markup=False)
            if record.warning is not None:
                err.print(f"idemodels: note: {case}: {record.warning}", markup=False)
            if record.doubtful:
                err.print(
                    f"idemodels: note: {case}: the solver's error, {record.solver_error:.1e}, "
                    f"exceeds a tenth of the model's, {record.max_error:.1e}",
                    markup=False,
                )


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
                "study": None if config.finding is None else _finite(config.finding.rows),
            }
            for config in finished
        ],
    }


def heading(config: Finished) -> str:
    """The title, and what all cases have in common of the hyperparameters."""
    everywhere = lambda key: all(key in record.values for record in config.records)
    keys = [key for key in config.keys if key not in config.varying and everywhere(key)]
    common = words(config.records[0], keys) if config.records else ""
    return f"{config.config.title} ({common})" if common else config.config.title


def words(record: Record, keys: list[str]) -> str:
    """Such as "learning_rate=0.1 b2=0.99"."""
    return " ".join(f"{key}={record.values[key]}" for key in keys if key in record.values)


def _in_lines(head: str) -> str:
    """Narrow: "learning_rate" over two lines."""
    return head.replace("_", " ").replace(" ", "\n")


def _values(record: Record, keys: list[str]) -> list[str]:
    return [str(record.values.get(key, "")).replace("_", " ") for key in keys]


def _study_table(finding: Finding) -> Table:
    table = Table(box=SIMPLE_HEAD, caption="\n".join(finding.notes), padding=0)
    table.caption_justify = "left"
    for key in finding.rows[0] if finding.rows else ():
        table.add_column(_in_lines(key), justify="right", overflow="fold")
    for row in finding.rows:
        table.add_row(*(brief(x).replace("_", " ") for x in row.values()))
    return table


def _finite(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """JSON has no NaN."""
    none = lambda x: None if isinstance(x, float) and not math.isfinite(x) else x
    return [{key: none(x) for key, x in row.items()} for row in rows]


def _brief(result: str) -> str:
    """The first sentence."""
    return result.split(". ")[0].rstrip(".")


def _summary(config: Finished) -> str:
    solved = sum(record.okay for record in config.records)
    return (
        f"{config.config.name}: {solved} of {len(config.config.cases)} cases solved in "
        f"{config.seconds:.1f} s; figures, table and trajectories are in {config.folder}"
    )
