"""Records in JSON, and how a page takes the tables made of them."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# How deep a file of records goes a line for each entry: page, records, record, points.
_DEPTH = 4

Record = dict[str, Any]


def write(path: Path, page: dict[str, Any]) -> None:
    """Writes all of it, or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(_layout(page, _DEPTH) + "\n")
    os.replace(partial, path)


def insert(readme: str, tables: dict[str, str], maker: str) -> str:
    """**Returns:** the README with the tables between the markers that name them and `maker`."""
    for name, table in tables.items():
        begin, end = f"<!-- {name}: made by {maker} -->", f"<!-- end of {name} -->"
        pattern = re.escape(begin) + ".*?" + re.escape(end)
        readme, found = re.subn(
            pattern, lambda _, b=begin, t=table, e=end: f"{b}\n{t}\n{e}", readme, flags=re.S
        )
        if found != 1:
            raise ValueError(f"The README must have one {begin} and its end, but has {found}.")
    return readme


def rows(head: Iterable[str], body: Iterable[Iterable[str]]) -> str:
    """**Returns:** a table in Markdown."""
    head = tuple(head)
    line = lambda cells: "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"
    return "\n".join([line(head), line("---" for _ in head), *map(line, body)])


def number(x: float | None, form: str) -> str:
    """**Returns:** `x` in a format, or a dash."""
    return "-" if x is None else format(x, form)


def duration(x: float | None) -> str:
    """**Returns:** seconds with a fitting unit, or a dash."""
    if x is None:
        return "-"
    return f"{1e3 * x:.3g} ms" if x < 1 else f"{x:.3g} s"


def _layout(x: Any, depth: int) -> str:
    if depth == 0 or not isinstance(x, dict | list) or not x:
        return json.dumps(x)
    if isinstance(x, dict):
        parts = [f"{json.dumps(key)}: {_layout(value, depth - 1)}" for key, value in x.items()]
        return "{\n" + ",\n".join(parts) + "\n}"
    return "[\n" + ",\n".join(_layout(value, depth - 1) for value in x) + "\n]"
