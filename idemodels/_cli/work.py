"""One case: solve, run the discrete twin, compare."""

import time
import warnings
from dataclasses import dataclass, replace
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from .._analysis.convergence import least_of
from .._compare import Comparison, compare
from .._config import Case
from .._discrete import run_discrete
from .._equation import Fixed
from .._method import AbstractMethod, History, Markov
from .._plot import Pair, Side
from .._programs import program
from .._results import RESULTS, Trajectory, is_okay
from .._solve import equation_for, solve
from .._types import Theta

# The equation's path is kept at so many points: at the first of these numbers that holds all of the
# discrete run's steps. They are few, so that configs share their compilations; the first is enough
# for a smooth line.
_SIZES = (501, 1501, 9001)
# With more parameters than this it is kept at the discrete run's steps alone.
_SMALL = 100


@dataclass(frozen=True)
class Record:
    """A row of the table. What a case has not, because it failed or is of another kind, is `None`.

    - `result`: "successful", or why it failed.
    - `max_error`, `at`, `final_error`, `relative_error`: the model's error, against the discrete
        run: the largest over the path and where that is, the one at its end.
    - `solver_error`: what the method leaves: of a second solve at 10 times the tolerance
        (`Markov`) or on twice as fine a grid (`History`); of the mesh (`FixedPoint`).
    - `residual`, `extension_doubled`, `extension_zeroed`: of the fixed point.
    - `num_clamped`, `positive_until`: how often the second moment was negative, and up to which s
        it is sure not to be; for a second moment that can be.
    - `published`: the source's number.
    - `warning`: of a flow, why it cannot be trusted.
    - `seconds`: solving the equation; with compilation, where it is the first case of its kind.
    """

    values: dict[str, Any]
    steps: int
    method: str
    okay: bool
    result: str
    max_error: float | None = None
    at: int | None = None
    final_error: float | None = None
    relative_error: float | None = None
    solver_error: float | None = None
    residual: float | None = None
    extension_doubled: float | None = None
    extension_zeroed: float | None = None
    num_clamped: int | None = None
    positive_until: float | None = None
    published: float | None = None
    solver_steps: int | None = None
    gradients: int | None = None
    implicit_from: float | None = None
    seconds: float | None = None
    warning: str | None = None
    file: str | None = None

    @property
    def doubtful(self) -> bool:
        """Whether what is measured is not the model's error alone."""
        if self.solver_error is None or self.max_error is None:
            return False
        return self.solver_error > 0.1 * self.max_error


def points_for(cases: tuple[Case, ...]) -> int:
    """At how many points the equations of a config are kept.

    As many for each case, so that one compilation does for all.
    """
    marks = max(case.marks.size for case in cases)
    return next((size for size in _SIZES if size >= marks), marks)


def work(case: Case, dtype: str, points: int) -> tuple[Record, Pair | None]:
    """Solves a case and compares it with its discrete run; a failure is a record."""
    start = case.start(dtype)
    marks = case.marks
    small = ravel_pytree(start)[0].size <= _SMALL
    ts, at = between(marks, points) if small else (marks.astype(float), np.arange(marks.size))
    case_is = (dict(case.values), case.steps, type(case.method).__name__)
    began = time.perf_counter()
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", UserWarning)
            path = _solved(case, case.method, start, ts)
        jax.block_until_ready((path.theta, path.loss))
        seconds = time.perf_counter() - began
        finer = _at_another_accuracy(case.method)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # told already
            again = None if finer is None else _solved(case, finer, start, ts)
        twin: Any = case.model.optax(unscaled_decay=True) if case.unscaled_decay else case.model  # pyright: ignore[reportCallIssue]
        discrete = run_discrete(twin, case.objective, start, case.steps, ts=marks)
        path, discrete = (_timed(case, side) for side in (path, discrete))
    except ValueError as e:
        return Record(*case_is, False, str(e)), None
    sides = [Side(path, _gradients(case, path)), Side(discrete, _gradients(case, discrete))]
    equation, run = jax.device_get(sides)
    compared = _compared(equation.path, run.path, again, at)
    error = np.asarray(compared.error)
    of_source = case.also_published, case.curve, case.ends
    known = case.objective, case.published, _least(case), case.model, *of_source
    pair = Pair(case.values, equation, run, at, error, *known)
    okay, result = _outcome(equation.path, run.path)
    stats = equation.path.stats
    measured = {
        "residual": _number(stats.get("residual")),
        "extension_doubled": _number(stats.get("extension_doubled")),
        "extension_zeroed": _number(stats.get("extension_zeroed")),
        "num_clamped": int(stats["num_clamped"]) if "num_clamped" in stats else None,
        "positive_until": _positive_until(equation.path),
        "published": _number(case.published),
        "solver_steps": int(stats["num_steps"]),
        "gradients": int(stats["num_gradients"]),
        "implicit_from": _number(stats["implicit_from"]),
        "seconds": round(seconds, 3),
        "warning": " ".join(str(w.message) for w in told) or None,
    }
    if okay:
        own = compared.solver_error
        measured |= {
            "max_error": float(compared.max_error),
            "at": int(compared.at),
            "final_error": float(error[-1]),
            "relative_error": _number(compared.relative_error),
            "solver_error": _number(own),
        }
    return Record(*case_is, okay, result, **measured), pair


def _at_another_accuracy(method: AbstractMethod) -> AbstractMethod | None:
    """The same method at another accuracy, to see its error.

    `None` where it tells its error itself, or takes steps that no tolerance changes.
    """
    if isinstance(method, Markov):
        adaptive = dfx.AbstractAdaptiveSolver | dfx.AbstractImplicitSolver
        if method.solver is not None and not isinstance(method.solver, adaptive):
            return None
        return replace(method, rtol=10 * method.rtol, atol=10 * method.atol)
    if isinstance(method, History):
        steps = None if method.steps is None else 2 * method.steps
        return replace(method, substeps=2 * method.substeps, steps=steps)
    return None


def between(marks: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """`marks` and points evenly between them, `points` in all, so that a line is smooth.

    **Returns:** all of them, and at which indices the marks are.
    """
    gaps = marks.size - 1
    more = max(0, points - marks.size)
    filled = np.round(np.linspace(0, more, gaps + 1)).astype(int)
    at = np.arange(gaps + 1) + filled
    return np.interp(np.arange(at[-1] + 1), at, marks), at


def _solved(case: Case, method: AbstractMethod, start: Theta, ts: np.ndarray) -> Trajectory:
    """The equation's path on the discrete run's steps, wherever on its own axis it starts."""
    path = solve(
        case.model,
        case.objective,
        start,
        ts + case.shift,
        method=method,
        state0=case.state0(start),
        throw=False,
    )
    if not case.shift:
        return path
    times = None if path.times is None else path.times - path.times[0]
    return replace(path, ts=path.ts - case.shift, times=times)


def _timed(case: Case, path: Trajectory) -> Trajectory:
    """With the papers' time also where an optimizer does not tell it: its rate is in the config."""
    if path.times is not None:
        return path
    return replace(path, times=case.values["learning_rate"] * path.ts)


def _least(case: Case) -> float:
    """The loss in the minimum, where the objective knows it."""
    least = least_of(case.objective, None)
    return np.nan if least is None else least


def _gradients(case: Case, path: Trajectory) -> Any:
    """The gradient at every row, the papers' L2 term included."""
    first = jax.tree.map(lambda x: x[0], eqx.filter(path.theta, eqx.is_inexact_array))
    equation = equation_for(case.model, case.objective, None, first)
    return _gradient_rows(equation, path.theta)


@program
def _gradient_rows(equation: Any, thetas: Any) -> Any:
    moving, fixed = eqx.partition(thetas, eqx.is_inexact_array)
    return jax.lax.map(lambda theta: equation.gradient(theta, Fixed(fixed)), moving)


def _compared(path: Trajectory, discrete: Trajectory, again: Any, at: np.ndarray) -> Comparison:
    rows = lambda path: _rows(path, at)
    if again is not None:
        again = rows(jax.device_get(again)) if bool(is_okay(again.result)) else None
    with warnings.catch_warnings():  # `Record.doubtful` tells it
        warnings.simplefilter("ignore", UserWarning)
        return compare(rows(path), jax.tree.map(jnp.asarray, discrete), again)


def _rows(path: Trajectory, at: np.ndarray) -> Trajectory:
    take = lambda tree: jax.tree.map(lambda x: jnp.asarray(x)[at], tree)
    kept = {name: take(getattr(path, name)) for name in ("ts", "times", "theta", "loss", "moments")}
    return replace(path, **kept, states=None, last=None)


def _outcome(path: Trajectory, discrete: Trajectory) -> tuple[bool, str]:
    if not bool(is_okay(path.result)):
        return False, RESULTS[path.result]
    if not bool(is_okay(discrete.result)):
        return False, f"The discrete run failed. {RESULTS[discrete.result]}"
    return True, "successful"


def _positive_until(path: Trajectory) -> float | None:
    if "positivity_guaranteed" not in path.stats:
        return None
    sure = np.asarray(path.stats["positivity_guaranteed"])
    return float(path.ts[sure][-1]) if sure.any() else 0.0


def _number(x: Any) -> float | None:
    return None if x is None or not np.isfinite(x) else float(x)
