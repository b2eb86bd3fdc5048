"""How far a sweep has come, on stderr."""

import time
from typing import Any

import numpy as np

from .rounds import FINE

# Seconds between two lines where there is no terminal.
_LINES = 30.0


class Progress:
    """A bar on a terminal, a line now and then elsewhere: lanes, rate, time left, failures."""

    def __init__(self, lanes: int, *, quiet: bool):
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress as Bar,
            TextColumn,
            TimeRemainingColumn,
        )

        self._console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        words = TextColumn("{task.description}", markup=False)
        columns: Any = (BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn(), words)
        hidden = quiet or not self._console.is_terminal
        self._bar = Bar(*columns, console=self._console, transient=True, disable=hidden)
        self._task = self._bar.add_task("", total=lanes)
        self._lanes, self._done, self._failed = lanes, 0, 0
        self._began = self._told = time.monotonic()

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.stop()

    def done(self, status: np.ndarray) -> None:
        """More lanes are over."""
        self._done += status.size
        self._failed += int(np.sum(~np.isin(status, FINE)))
        now = time.monotonic()
        rate = self._done / max(now - self._began, 1e-9)
        words = f"{rate:,.0f} lanes/s, {self._failed} failed"
        self._bar.update(self._task, completed=self._done, description=words)
        if not self._console.is_terminal and now - self._told > _LINES:
            self._told = now
            left = (self._lanes - self._done) / rate
            self._console.print(
                f"{self._done:,} of {self._lanes:,} lanes, {words}, {left:,.0f} s left"
            )
