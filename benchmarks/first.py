"""How long the first answer takes: `python -m benchmarks.first`.

Each number is of a process of its own, which imports everything first and then calls an entry of
the library twice; beside it the same by hand in diffrax. Once with nothing compiled, once with what
the process before left in JAX's persistent compilation cache. CPU seconds, medians over processes.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from . import process, provenance
from .contestants import JAX
from .records import HERE, Record, insert, number, rows, write

_LIMIT = 600.0
_CELLS = ("ours", "by hand")


def measure(name: str, ours: bool, folder: str | None) -> Record:
    """**Returns:** what the first two calls take in this process.

    - `folder`: of the compilation cache; `None` has none.
    """
    import equinox as eqx
    import jax

    from .first_cases import cases

    if folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    call = cases()[name][0 if ours else 1]
    assert call is not None
    jax.numpy.zeros(3).sum().block_until_ready()
    wait = lambda made: jax.block_until_ready([*filter(eqx.is_array, jax.tree.leaves(made))])
    maps, cpu, wall = _maps(), _cpu(), time.perf_counter()
    wait(call())
    first = {"cpu": _cpu() - cpu, "wall": time.perf_counter() - wall, "maps": _maps() - maps}
    wall = time.perf_counter()
    wait(call())
    return first | {"second": time.perf_counter() - wall}


def main(arguments: list[str] | None = None) -> int:
    """Writes the record and the table of the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one entry, once")
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="processes for each number; %(default)s"
    )
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="where the record goes; the page is left alone")
    options = parser.parse_args(arguments)
    if options.case:
        name, side, folder = options.case
        print(json.dumps(measure(name, side == _CELLS[0], folder or None)))
        return 0
    from .first_cases import cases

    page = {**provenance.source(), **provenance.machine(), **provenance.device()}
    repeats = 1 if options.quick else options.repeats
    page |= {"versions": provenance.versions(JAX), "repeats": repeats}
    page |= {"imports": imports(repeats), "records": []}
    for name, (_, by_hand) in list(cases().items())[: 1 if options.quick else None]:
        for side in _CELLS if by_hand else _CELLS[:1]:
            for kept in (False, True):
                record = _record(name, side, kept, repeats)
                page["records"].append(record)
                print(f"{name}, {side}{', kept' if kept else ''}: {_told(record)}", flush=True)
                write(options.out or HERE / "results" / "first.json", page)
    if not options.out:
        readme = HERE / "README.md"
        readme.write_text(insert(readme.read_text(), tables(page), "benchmarks.first"))
    return 0


def imports(repeats: int) -> float:
    """**Returns:** the CPU seconds of `import idemodels`."""
    code = "import resource, idemodels; u = resource.getrusage(0); print(u.ru_utime + u.ru_stime)"
    found = [process.run([sys.executable, "-c", code], _LIMIT)[0] for _ in range(repeats)]
    return statistics.median(float(lines[-1]) for lines in found)


def tables(page: dict[str, Any]) -> dict[str, str]:
    """**Returns:** the table of the page: a row for each entry."""
    found = {(r["entry"], r["side"], r["kept"]): r for r in page["records"]}
    body = []
    for entry in dict.fromkeys(r["entry"] for r in page["records"]):
        cell = lambda side, kept, key, e=entry: found.get((e, side, kept), {}).get(key)
        ours, hand = (cell(side, False, "cpu") for side in _CELLS)
        ratio = ours / hand if ours and hand else None
        second = [cell(side, False, "second") for side in _CELLS]
        kept = [cell(side, True, "cpu") for side in _CELLS]
        body.append(
            (
                entry,
                *(number(x, ".2g") for x in (ours, hand, ratio, *kept)),
                *(number(1e3 * x if x else None, ".3g") for x in second),
                *(number(cell(side, False, "maps"), "d") for side in _CELLS),
            )
        )
    two = lambda what: (what, f"{what}, by hand")
    head = ("entry", *two("first call"), "ratio", *two("first call, kept"))
    head += (*two("second call, ms"), *two("memory maps"))
    medians = f", medians of {page['repeats']} processes" if page["repeats"] > 1 else ""
    words = (
        f"CPU seconds{medians}; `import idemodels` takes {page['imports']:.1f} more. "
        f"{page['machine']}, "
        f"{page['cores']} cores; commit {page['commit'][:12]}"
        f"{' and changes' if page['dirty'] else ''}."
    )
    return {"first": "\n\n".join([rows(head, body), words])}


def _record(name: str, side: str, kept: bool, repeats: int) -> Record:
    """The medians of some processes; `kept`: one before them fills the cache."""
    record: Record = {"entry": name, "side": side, "kept": kept}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.first", "--case", name, side]
        command.append(folder if kept else "")
        found = []
        for _ in range(repeats + kept):
            lines, failure = process.run(command, _LIMIT, x64=False)
            if failure:
                return record | {"result": failure}
            found.append(json.loads(lines[-1]))
    found = found[1:] if kept else found
    medians = {key: statistics.median(f[key] for f in found) for key in found[0]}
    return record | medians | {"maps": int(medians["maps"]), "result": "successful"}


def _told(record: Record) -> str:
    if record["result"] != "successful":
        return record["result"]
    return f"{record['cpu']:.2f} s of CPU, then {1e3 * record['second']:.1f} ms"


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _maps() -> int:
    """The process's memory maps, of which Linux gives it 65,530; 0 elsewhere."""
    listed = Path("/proc/self/maps")
    return len(listed.read_text().splitlines()) if os.name == "posix" and listed.exists() else 0


if __name__ == "__main__":
    sys.exit(main())
