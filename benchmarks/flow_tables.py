"""The tables of flows: the optimizers that were tried, and the digits network."""

from typing import Any

from . import flow_digits
from .records import rows


def tables(page: dict[str, Any]) -> dict[str, str]:
    """**Returns:** by the name that the README has for it, each table in Markdown."""
    return {"flows": table(page), "flow digits": flow_digits.table(page)}


def table(page: dict[str, Any]) -> str:
    """**Returns:** a row for each optimizer, in Markdown."""
    head = (
        "optimizer",
        "order seen from step 0, p = 1, 2, 3, 4",
        f"from time {page['exact_time']}",
        "least error, p = 1 and 4",
        "",
    )
    return rows(head, map(_row, page["records"]))


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    least = "-"
    if record.get("later"):
        first, last = (record["later"]["errors"][i][-1] for i in (0, -1))
        least = f"{_error(first)}, {_error(last)}"
    sides = (_slopes(record.get(side)) for side in ("from_start", "later"))
    return record["optimizer"], *sides, least, record["result"]


def _slopes(study: dict[str, Any] | None) -> str:
    if study is None:
        return "-"
    return ", ".join(
        "fails" if all(e is None for e in errors) else "exact" if slope is None else f"{slope:.1f}"
        for slope, errors in zip(study["slopes"], study["errors"], strict=True)
    )


def _error(x: float | None) -> str:
    return "fails" if x is None else f"{x:.0e}"
