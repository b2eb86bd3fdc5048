"""One case: solve, run the discrete twin, compare."""

import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from .._compare import compare
from .._config import Case
from .._discrete import run_discrete
from .._plot import Pair
from .._results import RESULTS, Trajectory, is_okay
from .._solve import solve

# The equation's path is drawn through so many points at least.
_SMOOTH = 501
# With more parameters than this it is kept at the discrete run's steps alone.
_SMALL = 100


@dataclass(frozen=True)
class Record:
    """A row of the table. What a failed case has not is `None`.

    - `result`: "successful", or why it failed.
    - `seconds`: solving the equation; with compilation, where it is the first case of its kind.
    """

    values: dict[str, Any]
    steps: int
    okay: bool
    result: str
    max_error: float | None = None
    at: int | None = None
    final_error: float | None = None
    relative_error: float | None = None
    solver_steps: int | None = None
    gradients: int | None = None
    implicit_from: float | None = None
    seconds: float | None = None
    file: str | None = None


def points_for(cases: tuple[Case, ...]) -> int:
    """At how many points the equations of a config are kept.

    As many for each case, so that one compilation does for all.
    """
    return max(_SMOOTH, *(case.marks.size for case in cases))


def work(case: Case, dtype: str, points: int) -> tuple[Record, Pair | None]:
    """Solves a case and compares it with its discrete run; a failure is a record."""
    start = case.start(dtype)
    marks = case.marks
    small = ravel_pytree(start)[0].size <= _SMALL
    ts, at = between(marks, points) if small else (marks.astype(float), np.arange(marks.size))
    began = time.perf_counter()
    try:
        path = solve(case.model, case.objective, start, ts, method=case.method, throw=False)
        jax.block_until_ready((path.theta, path.loss))
        seconds = time.perf_counter() - began
        discrete = run_discrete(case.model, case.objective, start, case.steps, ts=marks)
    except ValueError as e:
        return Record(dict(case.values), case.steps, False, str(e)), None
    path, discrete = jax.device_get((path, discrete))
    comparison = compare(_on_device(_rows(path, at)), _on_device(discrete))
    error = np.asarray(comparison.error)
    pair = Pair(case.values, path, discrete, error)
    okay, result = _outcome(path, discrete)
    counts = {
        "solver_steps": int(path.stats["num_steps"]),
        "gradients": int(path.stats["num_gradients"]),
        "implicit_from": _finite(path.stats["implicit_from"]),
        "seconds": round(seconds, 3),
    }
    errors = {}
    if okay:
        errors = {
            "max_error": float(comparison.max_error),
            "at": int(comparison.at),
            "final_error": float(error[-1]),
            "relative_error": _finite(comparison.relative_error),
        }
    return Record(dict(case.values), case.steps, okay, result, **errors, **counts), pair


def between(marks: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """`marks` and points evenly between them, `points` in all, so that a line is smooth.

    **Returns:** all of them, and at which indices the marks are.
    """
    gaps = marks.size - 1
    more = max(0, points - marks.size)
    filled = np.round(np.linspace(0, more, gaps + 1)).astype(int)
    at = np.arange(gaps + 1) + filled
    return np.interp(np.arange(at[-1] + 1), at, marks), at


def _rows(path: Trajectory, at: np.ndarray) -> Trajectory:
    take = lambda tree: jax.tree.map(lambda x: x[at], tree)
    ts, times, theta, loss, moments = take(
        (path.ts, path.times, path.theta, path.loss, path.moments)
    )
    return Trajectory(ts, times, theta, loss, moments, path.result, path.stats, None, None)


def _on_device(path: Trajectory) -> Trajectory:
    return jax.tree.map(jnp.asarray, path)


def _outcome(path: Trajectory, discrete: Trajectory) -> tuple[bool, str]:
    if not bool(is_okay(path.result)):
        return False, RESULTS[path.result]
    if not bool(is_okay(discrete.result)):
        return False, f"The discrete run failed. {RESULTS[discrete.result]}"
    return True, "successful"


def _finite(x: Any) -> float | None:
    return float(x) if np.isfinite(x) else None
