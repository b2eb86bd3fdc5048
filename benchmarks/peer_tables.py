"""The tables of the benchmark against the peers."""

from typing import Any

from .problems import PROBLEMS
from .records import Record, duration, number, rows

# What every record has; the rest only where the case was solved.
ALWAYS = ("solver", "problem", "setting", "reference", "result", "python", "versions", "max_error")
SOLVED = ("best_s", "first_s", "compile_s", "repeats", "gradients", "sweeps", "peak_mib")
SOLVED = (*SOLVED, "device", "x64")


def tables(page: dict[str, Any]) -> dict[str, str]:
    """**Returns:** the Markdown between each pair of markers in the README, by its name."""
    records = page["records"]
    long = [r for r in records if r["problem"] not in PROBLEMS]
    short = [r for r in records if r["problem"] in PROBLEMS]
    return {"peers": _peers(short), "scaling": _scaling(long), "machine": _machine(page)}


def _peers(records: list[Record]) -> str:
    head = ("solver", "setting", "max error", "best", "compile", "gradients", "sweeps", "result")
    parts = []
    for name, problem in PROBLEMS.items():
        lines = [_row(r) for r in records if r["problem"] == name]
        if lines:
            title = f"**{problem.title}**, on [0, {problem.ts[-1]:g}]; against: {problem.reference}"
            parts.append(f"{title}\n\n{rows(head, lines)}")
    return "\n\n".join(parts)


def _row(r: Record) -> tuple[str, ...]:
    setting = ", ".join(
        str(v) if k == "method" else f"{k} {v:g}" for k, v in (r["setting"] or {}).items()
    )
    numbers = (
        number(r["max_error"], ".1e"),
        duration(r.get("best_s")),
        duration(r.get("compile_s")),
        number(r.get("gradients"), ","),
        number(r.get("sweeps"), ","),
    )
    solver = "idemodels" if r["solver"] == "ours" else r["solver"]
    return (solver, setting or "-", *numbers, r["result"])


def _scaling(records: list[Record]) -> str:
    head = ("N", "best", "times the first", "compile", "peak memory", "max error", "result")
    base = next((r["best_s"] for r in records if "best_s" in r), None)
    lines = []
    for r in records:
        ratio = r["best_s"] / base if base and "best_s" in r else None
        memory = f"{r['peak_mib']:.0f} MiB" if "peak_mib" in r else "-"
        best, compiled = duration(r.get("best_s")), duration(r.get("compile_s"))
        error = number(r["max_error"], ".1e")
        cells = (best, number(ratio, ".2f"), compiled, memory, error, r["result"])
        lines.append((f"{int(r['problem']):,}", *cells))
    return rows(head, lines)


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
