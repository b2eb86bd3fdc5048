"""One curve in a process of its own: `python -m benchmarks.curve PROBLEM CONTESTANT [--quick]`.

It prints a line of JSON for what holds for all points, `head`; and for each point two, one when it
is `begun`, and the `point`.
"""

import dataclasses
import importlib
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import provenance
from .contestants import CONTESTANTS, settings
from .descents import DESCENTS, flat
from .problems import Optimizer
from .references import reference
from .solvers import Unavailable

# Seconds for which a point is repeated, and how often at most.
_SECONDS, _REPEATS = 0.5, 20
# After so many points in a row that failed, tighter ones are not tried.
_FAILURES = 3


@dataclasses.dataclass
class Point:
    """A path and what it took.

    - `theta`: rows at `ts`, shape `(T, d)`.
    - `gradients`: None where the solver does not tell.
    """

    ts: np.ndarray
    theta: np.ndarray
    result: str = "successful"
    gradients: int | None = None
    steps: int | None = None
    rejected: int | None = None
    sweeps: int | None = None


Solve = Callable[[dict[str, float]], Point]


def measure(
    problem: str, name: str, chosen: list[dict[str, float]], seconds: float = _SECONDS
) -> Iterator[dict[str, Any]]:
    """**Returns:** the lines, as dicts; `seconds` for the repetitions of a point."""
    contestant, truth = CONTESTANTS[name], reference(problem)
    head = {
        "python": platform.python_version(),
        "versions": provenance.versions(contestant.packages),
        **provenance.device(),
    }
    try:
        solve, count = _PREPARE[contestant.family](problem, name)
    except Unavailable as e:
        yield {"head": head | {"result": f"not run: {e}"}}
        return
    # by now JAX is loaded, if it is used
    yield {"head": head | provenance.device()}
    failures = 0
    for i, setting in enumerate(chosen):
        yield {"begun": setting}
        compiles = contestant.family != "published" and (i == 0 or not contestant.traced)
        found = _point(problem, truth, setting, solve, count, compiles, seconds)
        yield {"point": setting | found}
        failures = 0 if found["result"] == "successful" else failures + 1
        if failures == _FAILURES:
            return


def _point(problem, truth, setting, solve: Solve, count, compiles, seconds) -> dict[str, Any]:
    times: list[float] = []
    first = None
    try:
        while not times or (sum(times) < seconds and len(times) < _REPEATS):
            begin = time.perf_counter()
            point = solve(setting)
            took = time.perf_counter() - begin
            if compiles and first is None and point.result == "successful":
                first = took
            else:
                times.append(took)
            if point.result != "successful":
                break
    except Unavailable as e:
        return {"result": f"not run: {e}", "error": None}
    except Exception as e:  # whatever is raised is the point's result
        text = f"{type(e).__name__}: {provenance.first_line(e)}"
        return {"result": text, "error": None}
    gradients, counted = point.gradients, "by the solver"
    if gradients is None and count is not None and point.result == "successful":
        gradients, counted = count(setting), "by a callback"
    ts = DESCENTS[problem].ts
    rows = np.searchsorted(ts, point.ts)
    error = np.max(np.abs(point.theta - truth[rows])) / np.max(np.abs(truth - truth[0]))
    return {
        "result": point.result,
        "error": float(error) if np.isfinite(error) else None,
        "gradients": gradients,
        "counted": counted,
        "steps": point.steps,
        "rejected": point.rejected,
        "sweeps": point.sweeps,
        "best_s": min(times),
        "compile_s": None if first is None else max(first - min(times), 0.0),
        "repeats": len(times),
    }


def _continuous(problem: str, name: str):
    import equinox as eqx
    import jax

    import idemodels as ide

    from .counting import Counted, Counter

    contestant, ts = CONTESTANTS[name], DESCENTS[problem].ts
    assert contestant.method is not None
    model, objective, theta0 = DESCENTS[problem].build()

    def prepared(objective):
        parts, rest = eqx.partition((model, objective, theta0), eqx.is_array)

        def path(parts, ts, rtol, atol):
            method = contestant.method(rtol, atol)
            return ide.solve(*eqx.combine(parts, rest), ts, method=method, throw=False)

        # arrays only: what else is there would be compared at every call
        fixed = () if contestant.traced else ("rtol", "atol")
        compiled = jax.jit(path, static_argnames=fixed) if contestant.compiled else path

        def call(setting):
            rtol, atol = setting["rtol"], setting["atol"]
            if contestant.traced:
                rtol, atol = jax.numpy.asarray(rtol), jax.numpy.asarray(atol)
            return jax.block_until_ready(compiled(parts, ts, rtol=rtol, atol=atol))

        return call

    call = prepared(objective)

    def solve(setting):
        found = call(setting)
        okay = bool(ide.is_okay(found.result))
        made = int(found.stats["num_gradients"])
        return Point(
            ts,
            flat(found.theta),
            "successful" if okay else ide.RESULTS[found.result],
            made if made >= 0 else None,
            int(found.stats["num_steps"]),
            int(found.stats["num_rejected"]),
        )

    counter = Counter()
    counted = prepared(Counted(objective, counter))

    def count(setting):
        counter.count = 0
        counted(setting)
        jax.effects_barrier()
        return counter.count

    return solve, count


def _discrete(problem: str, name: str):
    import equinox as eqx
    import jax

    import idemodels as ide

    descent = DESCENTS[problem]
    ts = descent.ts[descent.ts == np.round(descent.ts)]
    model, objective, theta0 = descent.build()

    @eqx.filter_jit
    def path(model, objective, theta0):
        return ide.run_discrete(model, objective, theta0, descent.steps, ts=ts.astype(int))

    def solve(setting):
        found = jax.block_until_ready(path(model, objective, theta0))
        okay = bool(ide.is_okay(found.result))
        message = "successful" if okay else ide.RESULTS[found.result]
        return Point(ts, flat(found.theta), message, descent.steps, descent.steps, 0)

    return solve, None


def _published(problem: str, name: str):
    descent = DESCENTS[problem]
    alpha, b1, b2 = descent.hyperparameters
    theirs = Optimizer(descent.title, "adam", alpha, b2, descent.steps, b1=b1)
    published = importlib.import_module(".solvers.published", __package__)
    run = published.prepare(theirs, {"loop": name == "published_loop"})
    ts = descent.ts[descent.ts == np.round(descent.ts)]

    def solve(setting):
        found = run()
        theta = found.theta[ts.astype(int), None]
        return Point(ts, theta, found.result, found.gradients, descent.steps, 0, found.sweeps)

    return solve, None


_PREPARE = {
    "ours": _continuous,
    "diffrax": _continuous,
    "discrete": _discrete,
    "published": _published,
}


def main(arguments: list[str]) -> None:
    problem, name, *quick = arguments
    try:
        chosen = settings(problem, name, bool(quick))
    except Unavailable as e:
        print(json.dumps({"head": {"result": f"not run: {e}"}}))
        return
    for line in measure(problem, name, chosen):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
