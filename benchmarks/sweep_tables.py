"""The tables of the benchmark of sweeps."""

from typing import Any

from .records import duration, number, rows


def sweeps(page: dict[str, Any]) -> str:
    """**Returns:** the Markdown: a grid beside a plain `vmap`, and ever more lanes in a store."""
    grid = page["config"]
    head = ("solver", "seconds", "compiling", "max error", "wrong", "marked", "mean steps", "most")
    lines = [
        (
            f"`{r['solver']}`",
            duration(r["seconds"]),
            duration(r["compile_s"]),
            number(r["max_error"], ".1e"),
            str(r["wrong"]),
            str(r["marked"]),
            number(r["mean_steps"], ",.0f"),
            f"{r['max_steps']:,}",
        )
        for r in page["records"]
    ]
    stream_head = ("lanes", "seconds", "per lane", "peak memory", "marked", "result")
    stream = [_stream(r) for r in page["streams"]]
    return "\n\n".join(
        [
            f"{grid['lanes']:,} lanes, {grid['steps']:,} steps, rtol {grid['rtol']:g}: "
            f"{page['times_faster']:.1f} times faster. Errors are the distance from a tight "
            "solution, of the path's range; wrong is more than 1e-3 of it.",
            rows(head, lines),
            "Ever more lanes with their discrete runs, through a store, each size in a process of "
            "its own:",
            rows(stream_head, stream),
            f"{page['machine']}, {page['cores']} cores, {page['device']}; commit "
            f"{page['commit'][:12]}{' and changes' if page['dirty'] else ''}.",
        ]
    )


def _stream(r: dict[str, Any]) -> tuple[str, ...]:
    if "config" not in r:
        return ("-", "-", "-", "-", "-", r["result"])
    return (
        f"{r['config']['lanes']:,}",
        duration(r["seconds"]),
        f"{r['us_per_lane']:.0f} us",
        f"{r['peak_gib']:.2f} GiB",
        str(r["marked"]),
        "successful",
    )
