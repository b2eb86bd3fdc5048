"""One config: every case, then the table and the figures."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import jax

from .._config import Config, shown
from .._plot import Pair, draw, rendered
from .progress import Progress
from .provenance import provenance
from .store import write_arrays, write_csv, write_json, write_whole
from .work import Record, points_for, work


@dataclass(frozen=True)
class Finished:
    """What a config came to.

    - `keys`: the hyperparameters that its table shows.
    - `interrupted`: whether `records` are only the cases before Ctrl-C.
    """

    config: Config
    folder: Path
    keys: list[str]
    records: list[Record]
    figures: list[str]
    seconds: float
    interrupted: bool


def run_config(config: Config, folder: Path, progress: Progress) -> Finished:
    """Solves all cases and writes everything to `folder`; at Ctrl-C, of the finished ones.

    **Raises:** `OutputError` if it cannot be written.
    """
    began = time.perf_counter()
    jax.config.update("jax_enable_x64", config.precision == "float64")
    keys = shown(case.values for case in config.cases)
    records: list[Record] = []
    pairs: list[Pair] = []
    interrupted = False
    try:
        _solve_all(config, folder, keys, progress, records, pairs)
    except KeyboardInterrupt:
        interrupted = True
    write_csv(folder / "table.csv", records)
    progress.doing(f"{config.name}: figures")
    figures: list[str] = []
    try:
        _draw(config, folder, keys, pairs, figures)
    except KeyboardInterrupt:
        interrupted = True
    seconds = time.perf_counter() - began
    finished = Finished(config, folder, keys, records, figures, seconds, interrupted)
    write_json(folder / "provenance.json", provenance(finished))
    return finished


def _solve_all(config, folder, keys, progress, records, pairs) -> None:
    """Appends to `records` and `pairs`, each as soon as it is on disk."""
    points = points_for(config.cases)
    for i, case in enumerate(config.cases, 1):
        words = " ".join(f"{key}={case.values[key]}" for key in keys if key in case.values)
        progress.doing(f"{config.name}: {words}")
        record, pair = work(case, config.precision, points)
        if pair is not None:
            file = f"{i:02d}_{words.replace(' ', '_')}.npz".replace("/", "-")
            record = replace(record, file=f"trajectories/{file}")
            write_arrays(folder / "trajectories" / file, pair)
            pairs.append(pair)
        records.append(record)
        error = "" if record.max_error is None else f", max error {record.max_error:.2e}"
        progress.done(f"{config.name} {i}/{len(config.cases)} {words}: {record.result}{error}")


def _draw(config, folder, keys, pairs, names) -> None:
    """Appends to `names` those that are on disk."""
    for name, figure in draw(config.title, pairs, keys).items() if pairs else ():
        for suffix in ("png", "svg"):
            write_whole(folder / f"{name}.{suffix}", rendered(figure, suffix))
        names.append(name)
