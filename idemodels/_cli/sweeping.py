"""`idemodels sweep`."""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from .._config import ConfigError, SweepConfig, find_config, read_sweep
from .._plot import heat_maps, rendered
from .._sweep import FINE, STATUS, StoreError, sweep as run_sweep
from .main import FAILED, INTERRUPTED, OKAY
from .provenance import where_from
from .report import brief, console
from .store import OutputError, check_writable, write_json, write_rows, write_whole

# Rows of a table.
_SHOWN = 5
_FINE = [STATUS[i] for i in FINE]


def sweep(arguments: argparse.Namespace) -> int:
    """`idemodels sweep CONFIG`"""
    config = read_sweep(find_config(arguments.config))
    folder = Path(arguments.out) / config.name
    store = folder / "sweep.zarr"
    check_writable(folder)
    if store.exists() and not arguments.resume:
        raise OutputError(
            f"{store}: is there already. Pass --resume to go on with it, or another --out."
        )
    began = time.perf_counter()
    jax.config.update("jax_enable_x64", config.precision == "float64")
    case = config.case
    try:
        found = run_sweep(
            case.model,
            case.objective,
            case.start(config.precision),
            case.steps,
            config.over,
            method=config.method,
            batch=config.batch,
            devices=arguments.devices,
            store=store,
            progress=not arguments.quiet,
        ).load()
    except StoreError as e:
        raise OutputError(str(e)) from None
    except ValueError as e:
        raise ConfigError(f"{config.path}: {e}") from None
    except KeyboardInterrupt as e:
        words = f"{e} Add --resume." if str(e) else "interrupted."
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"idemodels: {words}")
        return INTERRUPTED
    seconds = time.perf_counter() - began
    figures = _draw(config, found, folder)
    rows = _rows(config, found)
    failed = [row for row in rows if row["status"] not in _FINE]
    write_rows(folder / "failed.csv", failed, first=list(config.over))
    told = {
        **where_from(config),
        "lanes": len(rows),
        "failed": len(failed),
        "seconds": round(seconds, 3),
        "figures": figures,
        "store": str(store),
    }
    write_json(folder / "provenance.json", told)
    best = sorted((r for r in rows if r not in failed), key=lambda r: r["final_loss"])[:_SHOWN]
    if arguments.json:
        print(json.dumps(told | {"best": best, "failures": failed}, indent=2))
    elif not arguments.quiet:
        _print(config, best, failed, len(rows), seconds, folder)
    return FAILED if failed else OKAY


def _draw(config: SweepConfig, found: Any, folder: Path) -> list[str]:
    drawn = heat_maps(config.title, found, config.map, config.panels)
    for name, figure in drawn.items():
        for suffix in ("png", "svg"):
            write_whole(folder / f"{name}.{suffix}", rendered(figure, suffix))
    return list(drawn)


def _rows(config: SweepConfig, found: Any) -> list[dict[str, Any]]:
    """A row a lane: its values, and what came of it."""
    names = list(config.over)
    values = np.meshgrid(*(found[name].values for name in names), indexing="ij")
    columns = {name: x.ravel() for name, x in zip(names, values, strict=True)}
    for name in ("final_loss", "discrete_loss", "max_error", "num_steps", "status"):
        columns[name] = found[name].values.ravel()
    rows = [
        dict(zip(columns, row, strict=True))
        for row in zip(*(x.tolist() for x in columns.values()), strict=True)
    ]
    return [row | {"status": STATUS[row["status"]]} for row in rows]


def _print(config, best, failed, lanes: int, seconds: float, folder: Path) -> None:
    out = console()
    for title, rows in (("least loss of the equation", best), ("failed", failed)):
        if not rows:
            continue
        more = f", the first {_SHOWN} of {len(rows)}" if len(rows) > _SHOWN else ""
        table = Table(title=f"{config.title}: {title}{more}", box=None, title_justify="left")
        for name in rows[0]:
            table.add_column(name.replace("_", " "), justify="right")
        for row in rows[:_SHOWN]:
            settings = (f"{row[name]:.6g}" for name in config.over)
            others = (brief(row[name]) for name in row if name not in config.over)
            table.add_row(*settings, *others)
        out.print(table)
    out.print(f"{lanes - len(failed)} of {lanes} lanes solved in {seconds:.1f} s; all in {folder}")
