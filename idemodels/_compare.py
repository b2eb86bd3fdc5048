"""Two trajectories, side by side. It calls no solver."""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ._checks import by_name, first_difference, is_concrete
from ._results import Trajectory
from ._types import Path, Scalar

# The part of the distance to the discrete run from which on the solver's error is told: of one that
# is measured, and of an estimate, which adds up absolute errors, of which a fifth is left mostly.
_TENTH, _ESTIMATED = 0.1, 0.5


class Difference(eqx.Module):
    """How far two paths of one quantity are apart.

    - `error`: the largest absolute difference over leaves and components, shape `(T,)`.
    - `max_error`: its maximum over the path.
    """

    error: Path

    @property
    def max_error(self) -> Scalar:
        return jnp.max(self.error)


class Comparison(eqx.Module):
    """The equation against the discrete run, at the same optimizer steps.

    - `ts`: the steps, shape `(T,)`.
    - `error`: the largest absolute difference of theta over leaves and components, `(T,)`. This is
        the model's error, as long as `solver_error` is well below it.
    - `max_error`: its maximum. `at`: the step where that is.
    - `relative_error`: `max_error` over the discrete run's way, max |theta - theta0|.
    - `loss_gap`: the equation's loss minus the discrete one, `(T,)`; `None` without losses.
    - `moments`: dict from name to [`idemodels.Difference`][], for the moments that both have, of
        the same structure.
    - `solver_error`: how far a second solve is away, or without one the estimate that the path
        carries in its `stats`; `None` where there is neither, as with `History`.
    """

    ts: Path
    error: Path
    max_error: Scalar
    relative_error: Scalar
    at: Scalar
    loss_gap: Path | None
    moments: dict[str, Difference]
    solver_error: Scalar | None


def compare(
    continuous: Trajectory, discrete: Trajectory, recheck: Trajectory | None = None
) -> Comparison:
    """Compares theta, loss and every common moment, step by step.

    Arrays belong together that have the same path in the pytrees, such as `theta['w']`, whatever
    the pytrees' own types. Where their types differ, the wider one is computed in.

    **Arguments:**

    - `continuous`, `discrete`: trajectories on the same `ts`, of parameters of the same structure.
    - `recheck`: the continuous one solved again at 10 times the tolerance. The distance between
        both bounds the solver's error. Without it the path's own estimate is taken, which costs
        nothing and knows only what the solver has seen.

    **Returns:** an [`idemodels.Comparison`][].

    **Raises:** `ValueError` if the trajectories have different `ts`, structures or shapes.

    **Warns:** `UserWarning` if `solver_error` exceeds a tenth of `max_error`, or half of it where
    it is the path's own estimate, which adds up absolute errors.
    """
    _check(continuous, discrete, "discrete")
    error = _distance(continuous.theta, discrete.theta)
    way = _distance(discrete.theta, jax.tree.map(lambda x: x[:1], _floating(discrete.theta)))
    worst = jnp.argmax(error)
    loss_gap = None
    if continuous.loss is not None and discrete.loss is not None:
        loss_gap = _minus(continuous.loss, discrete.loss)
    moments = {
        name: Difference(_distance(moment, discrete.moments[name]))
        for name, moment in continuous.moments.items()
        if name in discrete.moments and _alike(moment, discrete.moments[name])
    }
    # two solved paths are apart by such errors, and nothing else
    carried = discrete.source != "equation"
    solver_error = continuous.stats.get("solver_error") if carried else None
    if recheck is not None:
        _check(continuous, recheck, "recheck")
        solver_error = jnp.max(_distance(continuous.theta, recheck.theta))
    if solver_error is not None and is_concrete((solver_error, error, continuous.stats)):
        converged = recheck is not None or bool(continuous.stats.get("converged", True))
        part = _ESTIMATED if recheck is None and converged else _TENTH
        _tell(float(solver_error), float(error[worst]), part, converged)
    return Comparison(
        continuous.ts,
        error,
        error[worst],
        error[worst] / jnp.max(way),
        continuous.ts[worst],
        loss_gap,
        moments,
        solver_error,
    )


def _tell(solver_error: float, error: float, part: float, converged: bool) -> None:
    """Warns where the solver's error is not well below what is measured."""
    if solver_error > part * error:
        words = "a tenth" if part == _TENTH else "half"
        unsure = "" if converged else " The path is not converged: its price was bounded."
        warnings.warn(
            f"The solver's error, {solver_error:.1e}, exceeds {words} of the distance between "
            f"equation and discrete run, {error:.1e}: what is measured is not the model's error."
            f"{unsure} Lower `rtol` and `atol`.",
            stacklevel=3,
        )


def _check(a: Trajectory, b: Trajectory, name: str) -> None:
    for argument, value in (("continuous", a), (name, b)):
        if not isinstance(value, Trajectory):
            raise ValueError(f"Argument `{argument}` must be a Trajectory, but is {value!r}.")
    if a.ts.shape != b.ts.shape:
        raise ValueError(
            f"Arguments `continuous` and `{name}` must be known at the same steps `ts`, but have "
            f"{a.ts.size} and {b.ts.size} of them. Solve with `ts={name}.ts`."
        )
    if is_concrete((a.ts, b.ts)):
        ts, others = np.asarray(a.ts), np.asarray(b.ts)
        # steps are often integers, exact; else float32 may have rounded them
        apart = ~np.isclose(ts, others, rtol=1e-6, atol=0)
        if apart.any():
            k = int(np.argmax(apart))
            raise ValueError(
                f"Arguments `continuous` and `{name}` must be known at the same steps `ts`, but "
                f"have {ts[k]} and {others[k]} at index {k}. Solve with `ts={name}.ts`."
            )
    sides = "`continuous`", f"`{name}`"
    apart = first_difference("theta", _floating(a.theta), _floating(b.theta), sides)
    if apart is not None:
        raise ValueError(
            f"Arguments `continuous` and `{name}` must have parameters of the same structure, but "
            f"{apart}."
        )


def _alike(a: PyTree[Any], b: PyTree[Any]) -> bool:
    return first_difference("", _floating(a), _floating(b), ("", "")) is None


def _floating(tree: PyTree[Any]) -> PyTree[Any]:
    return jax.tree.map(lambda x: x if eqx.is_inexact_array(x) else None, tree)


def _minus(a: Any, b: Any) -> Any:
    with jax.numpy_dtype_promotion("standard"):
        return a - b


def _distance(a: PyTree[Any], b: PyTree[Any]) -> Path:
    ours, theirs = by_name(_floating(a)), by_name(_floating(b))
    rows = [jnp.abs(_minus(x, theirs[name])).reshape(len(x), -1) for name, x in ours.items()]
    with jax.numpy_dtype_promotion("standard"):
        return jnp.max(jnp.stack([jnp.max(row, axis=1, initial=0.0) for row in rows]), axis=0)
