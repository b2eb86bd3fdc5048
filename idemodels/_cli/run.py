"""One config: every case, then the table, the study and the figures."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from .._config import Config, shown, varying
from .._interrupt import interruptible
from .._plot import Pair, draw, rendered
from .._study import Finding
from .progress import Progress
from .provenance import provenance
from .store import write_arrays, write_json, write_records, write_rows, write_whole
from .work import Record, points_for, work


@dataclass(frozen=True)
class Finished:
    """What a config came to.

    - `keys`: the hyperparameters that name a case; `varying`: those of them that tell cases apart.
    - `finding`: of its study; `None` where it has none, or no case was solved.
    - `interrupted`: whether `records` are only the cases before Ctrl-C.
    """

    config: Config
    folder: Path
    keys: list[str]
    varying: list[str]
    records: list[Record]
    figures: list[str]
    finding: Finding | None
    seconds: float
    interrupted: bool


def run_config(config: Config, folder: Path, progress: Progress) -> Finished:
    """Solves all cases and writes everything to `folder`; at Ctrl-C, of the finished ones.

    **Raises:** `OutputError` if it cannot be written.
    """
    began = time.perf_counter()
    jax.config.update("jax_enable_x64", config.precision == "float64")
    keys = shown(case.values for case in config.cases)
    apart = varying(case.values for case in config.cases)
    records: list[Record] = []
    pairs: list[tuple[Pair, Record]] = []
    interrupted = False
    try:
        with interruptible() as asked:
            for _ in _solved(config, folder, keys, progress, records, pairs):
                if asked.is_set():
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        interrupted = True
    write_records(folder / "table.csv", records)
    progress.doing(f"{config.name}: figures")
    figures: list[str] = []
    finding = None
    try:
        solved = [pair for pair, record in pairs if record.okay]
        if config.study is not None and solved:
            finding = config.study(config.title, solved, apart)
            write_rows(folder / "study.csv", finding.rows)
            _write_figure(folder, "study", finding.figure, figures)
        if config.figures and pairs:
            drawn = draw(config.title, [pair for pair, _ in pairs], keys, config.figures)
            for name, figure in drawn.items():
                _write_figure(folder, name, figure, figures)
    except KeyboardInterrupt:
        interrupted = True
    seconds = time.perf_counter() - began
    finished = Finished(
        config, folder, keys, apart, records, figures, finding, seconds, interrupted
    )
    write_json(folder / "provenance.json", provenance(finished))
    return finished


def _solved(config, folder, keys, progress, records, pairs) -> Iterator[None]:
    """Appends to `records` and `pairs`, each as soon as it is on disk; yields after each."""
    points = points_for(config.cases)
    for i, case in enumerate(config.cases, 1):
        words = " ".join(f"{key}={case.values[key]}" for key in keys if key in case.values)
        progress.doing(f"{config.name}: {words}")
        record, pair = work(case, config.precision, points)
        if pair is not None:
            file = f"{i:02d}_{words.replace(' ', '_')}.npz".replace("/", "-")
            record = replace(record, file=f"trajectories/{file}")
            write_arrays(folder / "trajectories" / file, pair)
            pairs.append((pair, record))
        records.append(record)
        error = "" if record.max_error is None else f", max error {record.max_error:.2e}"
        progress.done(f"{config.name} {i}/{len(config.cases)} {words}: {record.result}{error}")
        yield


def _write_figure(folder: Path, name: str, figure: Any, names: list[str]) -> None:
    """Appends to `names` when it is on disk."""
    for suffix in ("png", "svg"):
        write_whole(folder / f"{name}.{suffix}", rendered(figure, suffix))
    names.append(name)
