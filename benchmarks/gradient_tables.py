"""The table of the benchmark of derivatives."""

from typing import Any

from .records import duration, number, rows

_SIDES = {
    "equation": "`solve`, jitted",
    "eager": "`solve`, not jitted",
    "discrete": "unrolled optax, jitted",
}


def gradients(page: dict[str, Any]) -> str:
    """**Returns:** the Markdown: time and memory of both modes beside the unrolled run."""
    head = (
        *("steps", "of", "precision", "run", "steps taken", "reverse", "times unrolled"),
        *("process, MiB", "times unrolled", "forwards, three", "times unrolled", "modes apart"),
        "first call of reverse, CPU",
    )
    unrolled = {
        _case(r): r for r in page["records"] if r["config"]["side"] == "discrete" and _is_done(r)
    }
    return "\n\n".join(
        [
            rows(head, [_row(r, unrolled.get(_case(r))) for r in page["records"]]),
            f"{page['machine']}, {page['cores']} cores, {page['device']}; commit "
            f"{page['commit'][:12]}{' and changes' if page['dirty'] else ''}.",
        ]
    )


def _case(r: dict[str, Any]) -> tuple[int, str]:
    return r["config"]["steps"], r["precision"]


def _is_done(r: dict[str, Any]) -> bool:
    return r["result"] == "successful"


def _row(r: dict[str, Any], unrolled: dict[str, Any] | None) -> tuple[str, ...]:
    case = f"{r['config']['steps']:,}", _SIDES[r["config"]["side"]], r["precision"]
    if not _is_done(r):
        return (*case, r["result"], *9 * ("-",))

    def beside(mode: str, key: str) -> str:
        return "-" if unrolled is None else f"{r[mode][key] / unrolled[mode][key]:.2f}"

    a, b = r["reverse"]["gradient"], r["forwards"]["gradient"]
    apart = max(abs(a[name] - b[name]) / abs(b[name]) for name in b)
    return (
        *case,
        *(duration(r["solve"]["seconds"]), f"{r['solver_steps']:,}"),
        *(duration(r["reverse"]["seconds"]), beside("reverse", "seconds")),
        *(number(r["reverse"]["process_mib"], ".0f"), beside("reverse", "process_mib")),
        *(duration(r["forwards"]["seconds"]), beside("forwards", "seconds")),
        *(f"{apart:.0e}", duration(r["reverse"]["first_cpu_s"])),
    )
