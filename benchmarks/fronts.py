"""What of a curve counts: its points that no other point of it beats."""

from collections.abc import Iterable
from typing import Any

from .records import Record


def okay(record: Record) -> list[dict[str, Any]]:
    """**Returns:** the points that were solved, and whose error is known."""
    solved = lambda p: p["result"] == "successful" and p["error"] is not None
    return [p for p in record["points"] if solved(p)]


def front(record: Record, work: str) -> list[dict[str, Any]]:
    """**Returns:** the points with less `work` than any as exact, most work first."""
    points = [p for p in okay(record) if p.get(work) is not None]
    out: list[dict[str, Any]] = []
    for p in sorted(points, key=lambda p: (p[work], p["error"])):
        if not out or p["error"] < out[-1]["error"]:
            out.append(p)
    return out[::-1]


def least(record: Record, work: str, target: float) -> dict[str, Any] | None:
    """**Returns:** the point with the least `work` whose error is at most `target`."""
    reached = [p for p in front(record, work) if p["error"] <= target]
    return min(reached, key=lambda p: p[work], default=None)


def best(
    records: Iterable[Record], work: str, target: float
) -> tuple[Record, dict[str, Any]] | None:
    """**Returns:** the same of several curves, and whose it is."""
    found = [(r, p) for r in records if (p := least(r, work, target)) is not None]
    return min(found, key=lambda pair: pair[1][work], default=None)
