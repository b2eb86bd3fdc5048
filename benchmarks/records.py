"""The records in JSON, and the tables made of them."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .problems import PROBLEMS

HERE = Path(__file__).parent
# What every record has; the rest only where the case was solved.
ALWAYS = ("solver", "problem", "setting", "reference", "result", "python", "versions", "max_error")
SOLVED = ("best_s", "first_s", "compile_s", "repeats", "gradients", "sweeps", "peak_mib")
SOLVED = (*SOLVED, "device", "x64")

Record = dict[str, Any]


def write(path: Path, page: dict[str, Any]) -> None:
    """Writes all of it, or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(page, indent=1) + "\n")
    os.replace(partial, path)


def tables(page: dict[str, Any]) -> dict[str, str]:
    """**Returns:** the Markdown between each pair of markers in the README, by its name."""
    records = page["records"]
    long = [r for r in records if r["problem"] not in PROBLEMS]
    short = [r for r in records if r["problem"] in PROBLEMS]
    return {"peers": _peers(short), "scaling": _scaling(long), "machine": _machine(page)}


def insert(readme: str, page: dict[str, Any]) -> str:
    """**Returns:** the README with the tables between its markers."""
    for name, table in tables(page).items():
        begin, end = f"<!-- {name}: made by benchmarks.peers -->", f"<!-- end of {name} -->"
        pattern = re.escape(begin) + ".*?" + re.escape(end)
        readme, found = re.subn(
            pattern, lambda _, b=begin, t=table, e=end: f"{b}\n{t}\n{e}", readme, flags=re.S
        )
        if found != 1:
            raise ValueError(f"The README must have one {begin} and its end, but has {found}.")
    return readme


def _rows(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    line = lambda cells: "| " + " | ".join(cells) + " |"
    return "\n".join([line(head), line("---" for _ in head), *map(line, rows)])


def _peers(records: list[Record]) -> str:
    head = ("solver", "setting", "max error", "best", "compile", "gradients", "sweeps", "result")
    parts = []
    for name, problem in PROBLEMS.items():
        rows = [_row(r) for r in records if r["problem"] == name]
        if rows:
            title = f"**{problem.title}**, on [0, {problem.ts[-1]:g}]; against: {problem.reference}"
            parts.append(f"{title}\n\n{_rows(head, rows)}")
    return "\n\n".join(parts)


def _row(r: Record) -> tuple[str, ...]:
    setting = ", ".join(
        str(v) if k == "method" else f"{k} {v:g}" for k, v in (r["setting"] or {}).items()
    )
    numbers = (
        _number(r["max_error"], ".1e"),
        _seconds(r.get("best_s")),
        _seconds(r.get("compile_s")),
        _number(r.get("gradients"), ","),
        _number(r.get("sweeps"), ","),
    )
    solver = "idemodels" if r["solver"] == "ours" else r["solver"]
    return (solver, setting or "-", *numbers, r["result"].replace("|", "/"))


def _scaling(records: list[Record]) -> str:
    head = ("N", "best", "times the first", "compile", "peak memory", "max error", "result")
    base = next((r["best_s"] for r in records if "best_s" in r), None)
    rows = []
    for r in records:
        ratio = r["best_s"] / base if base and "best_s" in r else None
        memory = f"{r['peak_mib']:.0f} MiB" if "peak_mib" in r else "-"
        best, compiled = _seconds(r.get("best_s")), _seconds(r.get("compile_s"))
        error = _number(r["max_error"], ".1e")
        cells = (best, _number(ratio, ".2f"), compiled, memory, error, r["result"])
        rows.append((f"{int(r['problem']):,}", *cells))
    return _rows(head, rows)


def _machine(page: dict[str, Any]) -> str:
    lines = [f"{page['machine']}, {page['cores']} cores; {page['seconds']:.0f} s for all cases."]
    seen = {}
    for r in page["records"]:
        if r["versions"]:
            versions = ", ".join(f"{k} {v or 'missing'}" for k, v in r["versions"].items())
            precision = "double" if r.get("x64", True) else "single"
            where = f"{r['device']}, {precision}" if "device" in r else "not run"
            solved = seen.get(r["solver"], ("not run", ""))[0] != "not run"
            if not solved:
                seen[r["solver"]] = (where, f"Python {r['python']}, {versions}")
    for solver, (where, what) in seen.items():
        lines.append(f"- {'idemodels' if solver == 'ours' else solver} ({where}): {what}")
    return "\n".join([*lines[:1], "", *lines[1:]])


def _number(x: float | None, form: str) -> str:
    return "-" if x is None else format(x, form)


def _seconds(x: float | None) -> str:
    if x is None:
        return "-"
    return f"{1e3 * x:.3g} ms" if x < 1 else f"{x:.3g} s"
