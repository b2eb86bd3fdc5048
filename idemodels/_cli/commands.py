"""What each command does."""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .._config import Config, ConfigError, find_config, read_config, read_title, shipped
from .main import FAILED, INTERRUPTED, OKAY
from .page import write_page
from .progress import Progress
from .report import as_json, console, print_table, tell_failures
from .run import Finished, run_config
from .store import check_writable
from .studying import study
from .sweeping import sweep


def run(arguments: argparse.Namespace) -> int:
    """`idemodels run CONFIG...`"""
    configs = [read_config(find_config(text)) for text in arguments.config]
    _check_names(configs)
    return _run_all(configs, arguments)[0]


def paper(arguments: argparse.Namespace) -> int:
    """`idemodels paper`"""
    paths = [path for name, path in shipped().items() if name.startswith("paper/")]
    status, finished = _run_all([read_config(path) for path in paths], arguments)
    write_page(Path(arguments.out) / "paper", finished)
    return status


def listing(arguments: argparse.Namespace) -> int:
    """`idemodels list`"""
    titles = {name: read_title(path) for name, path in shipped().items()}
    if arguments.json:
        print(json.dumps([{"name": name, "title": title} for name, title in titles.items()]))
    elif arguments.quiet:
        print("\n".join(titles))
    else:
        table = Table("name", "title", box=None, pad_edge=False)
        for name, title in titles.items():
            table.add_row(name, title)
        console().print(table)
    return OKAY


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "run": run,
    "sweep": sweep,
    "study": study,
    "paper": paper,
    "list": listing,
}


def _run_all(configs: list[Config], arguments: argparse.Namespace) -> tuple[int, list[Finished]]:
    """Runs configs one after another; Ctrl-C ends it with what is finished."""
    out = Path(arguments.out)
    for folder in (out, *(out / config.name for config in configs)):
        check_writable(folder)
    finished = []
    with Progress(sum(len(config.cases) for config in configs), quiet=arguments.quiet) as progress:
        for config in configs:
            finished.append(run_config(config, out / config.name, progress))
            if finished[-1].interrupted:
                break
    if arguments.json:
        print(json.dumps(as_json(finished), indent=2))
    elif not arguments.quiet:
        print_table(finished)
    tell_failures(finished)
    if finished[-1].interrupted:
        _tell_interrupted(configs, finished, out)
        return INTERRUPTED, finished
    failed = any(not record.okay for config in finished for record in config.records)
    return (FAILED if failed else OKAY), finished


def _tell_interrupted(configs: list[Config], finished: list[Finished], out: Path) -> None:
    done = sum(len(config.records) for config in finished)
    cases = sum(len(config.cases) for config in configs)
    where = finished[-1].folder if len(configs) == 1 else out
    words = f"interrupted: {done} of {cases} cases are finished, and written to {where}."
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"idemodels: {words}")


def _check_names(configs: list[Config]) -> None:
    """Raises if two configs would write to one folder."""
    by_name: dict[str, Config] = {}
    for config in configs:
        other = by_name.setdefault(config.name, config)
        if other is not config:
            raise ConfigError(
                f"{config.path}: would write to the same folder, {config.name}, as {other.path}. "
                "Run them one after another with different --out, or rename one."
            )
