"""What is told while it works, on stderr."""

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress as Bar,
    TextColumn,
    TimeElapsedColumn,
)


class Progress:
    """A bar on a terminal; a line for each finished case elsewhere, so that a log has them."""

    def __init__(self, cases: int, *, quiet: bool):
        self._console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        columns = (BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Bar(
            *columns,
            TextColumn("{task.description}", markup=False),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=cases)

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def doing(self, what: str) -> None:
        self._bar.update(self._task, description=what)

    def done(self, what: str) -> None:
        """One more case is finished."""
        self._bar.advance(self._task)
        if not self._console.is_terminal:
            self._console.print(what, markup=False)
