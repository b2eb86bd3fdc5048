"""One case in a process of its own: `python -m benchmarks.case SOLVER PROBLEM SETTING`.

The setting is JSON. What was measured is printed as JSON, on the last line.
"""

import importlib
import json
import platform
import resource
import sys
import time
from typing import Any

from . import provenance
from .problems import LONG, PROBLEMS
from .solvers import Unavailable

# Seconds for which a case is repeated after the first run, and how often at most; a first run that
# took longer than the last number is not repeated.
_SECONDS, _REPEATS, _LONG = 5.0, 20, 60.0


def measure(
    solver: str, problem: str, setting: dict[str, Any], seconds: float = _SECONDS
) -> dict[str, Any]:
    """**Returns:** what a record has of a run; `theta` at the problem's `ts` is among it.

    The first run compiles where there is something to compile, and is timed apart; where it is the
    only one, it is its own best.
    """
    module = importlib.import_module(f".solvers.{solver}", __package__)
    versions = provenance.versions(module.PACKAGES)
    found: dict[str, Any] = {"python": platform.python_version(), "versions": versions}
    problem_ = PROBLEMS[problem] if problem in PROBLEMS else LONG[int(problem)]
    try:
        run = module.prepare(problem_, setting)
        begin = time.perf_counter()
        solved = run()
        first = time.perf_counter() - begin
        times: list[float] = []
        while len(times) < _REPEATS and (sum(times) < seconds if times else first < _LONG):
            begin = time.perf_counter()
            run()
            times.append(time.perf_counter() - begin)
    except Unavailable as e:
        return found | {"result": f"not run: {e}"}
    except Exception as e:  # whatever a peer raises is its result
        return found | {"result": f"{type(e).__name__}: {provenance.first_line(e)}"}
    return found | {
        "result": solved.result,
        "theta": [float(x) for x in solved.theta],
        "best_s": min(times, default=first),
        "first_s": first,
        "compile_s": max(first - min(times), 0.0) if times else None,
        "repeats": len(times),
        "gradients": solved.gradients,
        "sweeps": solved.sweeps,
        # what Linux counts in KiB
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        **provenance.device(),
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))))
