"""The table of the benchmark of derivatives."""

from typing import Any

from .records import duration, number, rows

_SIDES = {"equation": "`solve`", "discrete": "`run_discrete`, unrolled optax"}


def gradients(page: dict[str, Any]) -> str:
    """**Returns:** the Markdown: time and memory of both modes beside the run itself."""
    head = (
        *("steps", "of", "precision", "run", "solver steps", "reverse", "times", "MiB"),
        *("forwards, three", "times", "MiB", "modes apart", "compiling"),
    )
    return "\n\n".join(
        [
            rows(head, map(_row, page["records"])),
            f"{page['machine']}, {page['cores']} cores, {page['device']}; commit "
            f"{page['commit'][:12]}{' and changes' if page['dirty'] else ''}.",
        ]
    )


def _row(r: dict[str, Any]) -> tuple[str, ...]:
    case = f"{r['config']['steps']:,}", _SIDES[r["config"]["side"]], r["precision"]
    if r["result"] != "successful":
        return (*case, r["result"], *9 * ("-",))
    base = r["solve"]["seconds"]
    cells = [duration(base), f"{r['solver_steps']:,}"]
    for mode in ("reverse", "forwards"):
        took = r[mode]["seconds"]
        cells += [duration(took), f"{took / base:.1f}", number(r[mode]["peak_mib"], ".0f")]
    a, b = r["reverse"]["gradient"], r["forwards"]["gradient"]
    apart = max(abs(a[name] - b[name]) / abs(b[name]) for name in b)
    compiling = duration(r["reverse"]["compile_s"]) + ", " + duration(r["forwards"]["compile_s"])
    return (*case, *cells, f"{apart:.0e}", compiling)
