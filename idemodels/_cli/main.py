"""The command line: arguments, and exit statuses.

What a run needs beyond the library is imported only when a command runs, so that `--help` works
without it.
"""

import argparse
import gc
import sys
from collections.abc import Sequence

OKAY, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

# The packages of the extra `run`, by the names that they are imported by.
_EXTRA = ("filelock", "psutil", "pydantic", "rich", "matplotlib", "sklearn", "xarray", "zarr")

_EPILOG = """\
examples:
  idemodels list                       the configs that come with the package
  idemodels run adam_quadratic         one of them
  idemodels run mine.toml --out here   your own; results in here/mine/
  idemodels sweep sweep_adam           a grid of 4,096 settings
  idemodels study hyper hyper_digits   learning rate and decays, descending
  idemodels paper --quiet              every experiment of the two papers

exit status: 0 all cases solved, 1 some failed (the table says which), 2 wrong usage or config,
130 interrupted (what was finished is on disk)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    **Arguments:**

    - `argv`: without the program's name; `sys.argv` if `None`.

    **Returns:** the exit status. Wrong usage exits with 2, as argparse has it.
    """
    arguments = _parser().parse_args(argv)
    # tracing makes containers by the million: walks over them take an eighth of its time
    gc.set_threshold(100_000, 20, 20)
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt:
        return _fail("interrupted.", INTERRUPTED)
    except ModuleNotFoundError as e:
        if (e.name or "").partition(".")[0] not in _EXTRA:
            raise
        return _fail(f"this needs {e.name}: pip install 'idemodels[run]'", USAGE)


def _dispatch(arguments: argparse.Namespace) -> int:
    from .._config import ConfigError
    from .cache import kept_programs
    from .commands import COMMANDS
    from .store import OutputError

    try:
        with kept_programs(not getattr(arguments, "no_cache", True)):
            return COMMANDS[arguments.command](arguments)
    except (ConfigError, OutputError) as e:
        return _fail(str(e), USAGE)


def _fail(message: str, status: int) -> int:
    for line in message.splitlines():
        print(f"idemodels: error: {line}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    from .. import __version__
    from .._hyper import KINDS

    parser = argparse.ArgumentParser(
        prog="idemodels",
        description="Solves the integro-differential equations of AdaGrad, RMSProp and Adam, runs\n"
        "the discrete algorithms beside them, and reports how far apart they are.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"idemodels {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    run = commands.add_parser(
        "run",
        help="solve what the configs describe; write tables, figures and trajectories",
        description="Solves every case of each config and compares it with the discrete run. "
        "Writes figures, table.csv, trajectories and provenance.json to DIR/NAME/; of a "
        "config with a study also study.csv and its figure.",
    )
    run.add_argument("config", nargs="+", metavar="CONFIG", help="a TOML file, or a name of `list`")
    paper = commands.add_parser(
        "paper",
        help="run the experiments of the two papers (all of configs/paper/)",
        description="Runs every experiment of Heredia (2024), arXiv:2411.09734, and of its "
        "follow-up, arXiv:2602.09101, as `run` does, and writes DIR/paper/report.md: for each what "
        "the paper says, what is measured, the errors apart, and the figures.",
    )
    sweep = commands.add_parser(
        "sweep",
        help="solve a grid of settings; write a Zarr store, tables and heat maps",
        description="Solves every setting of a sweep's config and runs the discrete algorithm "
        "beside it. Writes the store DIR/NAME/sweep.zarr while it goes, which `xarray.open_zarr` "
        "reads, then heat maps, failed.csv and provenance.json.",
    )
    sweep.add_argument("config", metavar="CONFIG", help="a TOML file, or a name of `list`")
    sweep.add_argument(
        "--resume", action="store_true", help="go on with the store that is there already"
    )
    sweep.add_argument(
        "--devices", type=int, metavar="N", help="how many devices share the lanes (default: all)"
    )
    study = commands.add_parser(
        "study",
        help="differentiate through the equation: tune hyperparameters, or see how far it carries",
        description="hyper: descends in hyperparameters through the equation, and checks each "
        "update by the discrete run on images that were held out. horizon: compares derivatives "
        "with what a small change does, at every horizon. Writes a table, a figure and "
        "provenance.json to DIR/NAME/.",
    )
    study.add_argument("kind", choices=KINDS, metavar="KIND", help=" or ".join(KINDS))
    study.add_argument("config", metavar="CONFIG", help="a TOML file, or a name of `list`")
    listing = commands.add_parser(
        "list",
        help="show the configs that come with the package",
        description="Shows the names and titles of the configs that come with the package.",
    )
    for command in (run, sweep, paper, study, listing):
        _add_options(command)
    for command in (run, sweep, paper, study):
        command.add_argument(
            "--no-cache",
            action="store_true",
            help="keep no compiled programs (default: in $IDEMODELS_CACHE, or your cache folder)",
        )
    return parser


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", default="results", metavar="DIR", help="where results go (default: %(default)s)"
    )
    parser.add_argument(
        "--json", action="store_true", help="a report for machines on stdout, and nothing else"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress and no table")
