"""The time and the memory that a call takes."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_REPEATS = 10
# What the calls of one case take together, at most.
SECONDS = 3.0


def best_of(run: Callable[[], Any]) -> float:
    """**Returns:** the least of a few times, in seconds."""
    import jax

    times: list[float] = []
    while len(times) < _REPEATS and sum(times) < SECONDS:
        begin = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - begin)
    return min(times)


def reset_peak() -> int | None:
    """Forgets the process's peak memory, where it can; **returns:** what it has now, in bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def peak_memory() -> int | None:
    """**Returns:** the process's peak memory since it was forgotten, in bytes."""
    return _status("VmHWM")


def _status(key: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(key)), None)
