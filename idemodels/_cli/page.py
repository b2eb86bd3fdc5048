"""One page about all experiments: what the source says of each, what came out, and the figures."""

from pathlib import Path

from .report import COLUMNS, SPECIAL, brief, heading, words
from .run import Finished
from .store import write_whole

_HEAD = """# The experiments of the two papers

C. Heredia, *Modeling AdaGrad, RMSProp, and Adam with Integro-Differential Equations*,
[arXiv:2411.09734](https://arxiv.org/abs/2411.09734), and *From Adam to Adam-Like Lagrangians:
Second-Order Nonlocal Dynamics*, [arXiv:2602.09101](https://arxiv.org/abs/2602.09101): each of
their experiments solved again, with the errors apart. In the tables

- **max error** is the model's: the largest distance in theta between equation and discrete run over
  the path, reached **at step**; **last error** is the distance at its end;
- **solver error** is what the numerical method adds: against a second solve at ten times the
  tolerance, or, for the advanced equation, of the collocation between its nodes;
- **fixed point** is the residual of the advanced equation, relative to its largest velocity;
  **extension doubled** and **extension zeroed**: how far theta moves on [0, N] when the interval
  past the end, which the advanced equation reads, is doubled, or its gradient set to zero;
- **times v < 0** counts where the second moment was negative and read as zero; **v > 0 until** is
  the step up to which the lemma of the second paper excludes that.

The authors' curves mix the first three: Euler's step is the learning rate or a fifth of it, and
their fixed point is ended at 1e-4 or 1e-5."""


def write_page(folder: Path, finished: list[Finished]) -> None:
    """`report.md` in `folder`, which holds the folders of the configs."""
    lines = [_HEAD, ""]
    for config in finished:
        lines += _section(config, config.folder.relative_to(folder).as_posix())
    lines += _what_redraws(finished, folder)
    write_whole(folder / "report.md", "\n".join(lines).encode())


def _section(config: Finished, where: str) -> list[str]:
    lines = [f"## {heading(config)}", ""]
    if config.config.claim:
        lines += [f"What the paper says or shows: {config.config.claim.strip()}", ""]
    shown = config.figures[:1]
    lines += [f"![{name}]({where}/{name}.png)\n" for name in shown]
    links = ", ".join(f"[{name}]({where}/{name}.svg)" for name in config.figures)
    files = f"[table]({where}/table.csv), [config and versions]({where}/provenance.json)"
    lines += [f"Figures: {links or 'none'}. Files: {files}.", ""]
    if config.finding is not None:
        lines += _study(config)
    return [*lines, *_table(config), ""]


def _study(config: Finished) -> list[str]:
    assert config.finding is not None
    rows = [[brief(x) for x in row.values()] for row in config.finding.rows]
    lines = _markdown(list(config.finding.rows[0]), rows) if rows else ["Nothing to compare."]
    return [*lines, "", *(f"- {note}" for note in config.finding.notes), "", "Its cases:", ""]


def _table(config: Finished) -> list[str]:
    any_has = lambda column: any(column.read(record) is not None for record in config.records)
    columns = [*COLUMNS, *filter(any_has, SPECIAL)]
    rows = []
    for record in config.records:
        numbers = [column.write(column.read(record)) for column in columns]
        rows.append([words(record, config.varying), *numbers, record.result])
    return _markdown(["case", *(column.head for column in columns), "result"], rows)


def _markdown(heads: list[str], rows: list[list[str]]) -> list[str]:
    line = lambda cells: f"| {' | '.join(cells)} |"
    return [line(heads), line(["---"] * len(heads)), *map(line, rows)]


def _what_redraws(finished: list[Finished], folder: Path) -> list[str]:
    """For each kind of figure in the authors' code, the figures here."""
    kinds: dict[str, list[str]] = {}
    for config in finished:
        where = config.folder.relative_to(folder).as_posix()
        for kind, name in config.config.redraws.items():
            link = f"[{config.config.name.removeprefix('paper/')}]({where}/{name}.svg)"
            kinds.setdefault(kind, []).append(link)
    lines = ["## The figures in the authors' code, and what draws them here", ""]
    return [*lines, *(f"- {kind}: {', '.join(links)}" for kind, links in kinds.items()), ""]
