"""A page with all configs of a run."""

from pathlib import Path

from .report import words
from .run import Finished
from .store import write_whole


def write_index(folder: Path, finished: list[Finished]) -> None:
    """`index.md` in `folder`, which holds the folders of the configs."""
    lines = ["# The experiments of the paper", ""]
    for config in finished:
        lines += _section(config, config.folder.relative_to(folder).as_posix())
    write_whole(folder / "index.md", "\n".join(lines).encode())


def _section(config: Finished, where: str) -> list[str]:
    links = ", ".join(f"[{name}]({where}/{name}.svg)" for name in config.figures)
    lines = [f"## {config.config.title}", "", f"![paths]({where}/paths.png)", "", links, ""]
    lines += ["| case | steps | max error | at step | result |", "|---|---|---|---|---|"]
    for record in config.records:
        error = "" if record.max_error is None else f"{record.max_error:.2e}"
        at = "" if record.at is None else str(record.at)
        cells = [words(record, config.keys), str(record.steps), error, at, record.result]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]
