"""Derivatives of what comes of a run, for the equation and for the discrete algorithm."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ._discrete import run_discrete
from ._method import AbstractMethod, FixedPoint, Markov
from ._method.base import is_advanced
from ._model import AbstractModel, Decay
from ._parameters import as_parameters, check_model, check_objective
from ._results import Trajectory, is_okay
from ._solve import solve
from ._target import Base, Target, dtype_of_base, target_of
from ._types import Path, Scalar

# The derivative wanted, over the solver's tolerance: steps carry no derivative.
_TIGHTER = 1e-3
_TIGHTEST = 1e-12
# The step of a difference, of the scale of what is moved, in double and in single precision; the
# formula's error is its fourth power.
_STEP, _STEP_SINGLE = 1e-3, 3e-2
# f' (x) = sum of weight f(x + offset h) / h, of fourth order.
_OFFSETS = np.array([-2.0, -1.0, 1.0, 2.0])
_WEIGHTS = np.array([1.0, -8.0, 8.0, -1.0]) / 12.0


class Derivative(eqx.Module):
    """One side's outcome and its derivatives.

    - `value`: the outcome.
    - `gradient`: by name, the derivative; a scalar, or an array like what it is taken in.
    - `difference`: by name, a central difference, of fourth order; for an array, along the
        gradient's own direction, so that it stands beside the gradient's norm.
    - `error`: by name, gradient and difference apart, relative to the larger.
    - `loss_gradient`: by name of a scalar, the derivative of the loss at each of `ts`, `(T,)`.
    """

    value: Scalar
    gradient: dict[str, PyTree[Array]]
    difference: dict[str, Scalar]
    error: dict[str, Scalar]
    loss_gradient: dict[str, Path]


class Sensitivity(eqx.Module):
    """How an outcome changes with what it depends on.

    - `equation`, `discrete`: an [`idemodels.Derivative`][] each.
    - `apart`: by name, how far the equation's gradient is from the discrete one, relative to that.
    - `ts`: the steps of `loss_gradient`.
    - `rtol`: the relative tolerance that the equation was solved at; `None` for a method that has
        none.
    - `result`: of the solve.
    """

    equation: Derivative
    discrete: Derivative
    apart: dict[str, Scalar]
    ts: Path
    rtol: float | None
    result: Any

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [
            ("d outcome / d", "equation", "its difference", "discrete", "apart")
        ]
        for name, apart in self.apart.items():
            sides = self.equation.gradient, self.equation.difference, self.discrete.gradient
            cells = (f"{float(_size(side[name])):.6g}" for side in sides)
            rows.append((name, *cells, f"{float(apart):.2%}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        value = f"outcome {float(self.equation.value):.6g}, {float(self.discrete.value):.6g}"
        return "\n".join([f"{value} (discrete)", *lines])


def final_loss(path: Trajectory) -> Float[Array, ""]:
    """The loss at the last step."""
    assert path.loss is not None
    return path.loss[-1]


def sensitivity(
    model: AbstractModel,
    objective: Callable[..., Any],
    theta0: Any,
    steps: int,
    outcome: Callable[[Trajectory], Any] = final_loss,
    wrt: Sequence[str] = ("learning_rate", "b1", "b2"),
    *,
    args: Any = None,
    ts: Any = None,
    method: AbstractMethod | None = None,
    rtol: float | None = None,
) -> Sensitivity:
    """Differentiates an outcome of a run, through the solver and through the discrete algorithm.

    Scalars are differentiated forwards, arrays in reverse, and both are checked against central
    differences. Derivatives in b1, b2 and `decay` are those in the user's own numbers. The sizes of
    the solver's steps carry no derivative, so that it is only as exact as the tolerance.

    !!! Example

        ```python
        found = ide.sensitivity(ide.Adam(0.01), ide.Quadratic(), 1.0, 1000)
        found.equation.gradient["b2"], found.discrete.gradient["b2"]
        ```

    **Arguments:**

    - `model`, `objective`, `theta0`, `args`: as for [`idemodels.solve`][].
    - `steps`: optimizer steps.
    - `outcome`: a function of a [`idemodels.Trajectory`][] that returns a scalar.
    - `wrt`: names as in [`idemodels.sweep`][]: of hyperparameters as the constructor has them,
        `"theta0"`, `"args"`, or any array of model or objective by its path.
    - `ts`: integers, the steps of the trajectories; 101 of them, evenly spread, if `None`.
    - `method`: `None` is what the model needs, at a tolerance a thousandth of `rtol`.
    - `rtol`: how exact the derivatives are to be, relatively; 1e-6 if `None`, 1e-2 in single
        precision.

    **Returns:** an [`idemodels.Sensitivity`][].

    **Raises:** `ValueError` for an argument that is not as above, and for a decay of 0, in which
    there is no derivative; `RuntimeError` if the solve fails.

    **Warns:** `UserWarning` where gradient and difference of the equation are further apart than
    ten times `rtol`.
    """
    check_model(model, AbstractModel, "a model such as `idemodels.Adam(0.1)`")
    theta, rest = as_parameters(theta0)
    base = Base(model, objective, eqx.combine(theta, rest), args)
    check_objective(objective, base.theta0, args)
    targets = {name: target_of(base, name, "wrt") for name in _names(wrt)}
    for name, target in targets.items():
        _check_decay(name, target, model)
    double = dtype_of_base(base) == np.float64
    rtol = (1e-6 if double else 1e-2) if rtol is None else _positive(rtol)
    if method is None and not is_advanced(model):
        tight = max(_TIGHTER * rtol, _TIGHTEST if double else 1e-6)
        method = Markov(rtol=tight, atol=1e-3 * tight)
    elif method is None:
        method = FixedPoint()
    marks = _marks(steps, ts)
    run = _Run(base, targets, marks, method, outcome)
    run.check()
    scales = {name: _scale(target, base) for name, target in targets.items()}
    equation, result = _derivative(run, scales, True)
    with jax.numpy_dtype_promotion(
        "standard"
    ):  # optax's count is an integer, and its tangent mixes
        discrete, _ = _derivative(run, scales, False)
    if not bool(is_okay(result)):
        run.fails()
    apart = {name: _apart(equation.gradient[name], discrete.gradient[name]) for name in targets}
    for name, error in equation.error.items():
        if error > 10 * rtol:
            warnings.warn(
                f"The derivative of the equation in {name!r} is {float(error):.1e} away from its "
                f"central difference, more than ten times `rtol` = {rtol:g}. Lower `rtol`, or "
                "shorten `steps`: over a long horizon a derivative may mean nothing.",
                stacklevel=2,
            )
    known = jnp.asarray(marks, dtype_of_base(base))
    return Sensitivity(equation, discrete, apart, known, getattr(method, "rtol", None), result)


class _Run(eqx.Module):
    """An outcome as a function of how far each name is moved."""

    base: Base
    targets: dict[str, Target]
    marks: tuple[int, ...] = eqx.field(static=True)
    method: Any
    outcome: Callable[..., Any]

    def path(self, moved: dict[str, Any], continuous: bool, adjoint: Any = None) -> Trajectory:
        base = self.base
        for name, by in moved.items():
            base = self.targets[name].moved(base, by)
        given = base.model, base.objective, base.theta0
        if not continuous:
            return run_discrete(*given, self.marks[-1], ts=self.marks, args=base.args)
        ts = np.asarray(self.marks, float)  # known, which some methods need
        options = {"args": base.args, "method": self.method, "adjoint": adjoint}
        return solve(*given, ts, throw=False, **options)

    def check(self) -> None:
        """Raises unless the outcome is a real scalar; nothing is computed for that."""
        out = eqx.filter_eval_shape(lambda: self.outcome(self.path({}, False)))
        shape, dtype = getattr(out, "shape", None), getattr(out, "dtype", np.dtype(object))
        if shape != () or not jnp.issubdtype(dtype, jnp.floating):
            found = f"shape {shape} of type {dtype}" if hasattr(out, "shape") else repr(out)
            raise ValueError(f"Argument `outcome` must return a real scalar, but returns {found}.")

    def fails(self) -> None:
        """Raises with the advice that `solve` gives."""
        given = self.base.model, self.base.objective, self.base.theta0
        ts = np.asarray(self.marks, float)
        solve(*given, ts, args=self.base.args, method=self.method)


@eqx.filter_jit
def _derivative(run: _Run, scales: dict[str, Any], continuous: bool) -> tuple[Derivative, Any]:
    still = {
        name: jax.tree.map(jnp.zeros_like, _floating(target.of(run.base)))
        if not _is_decay(target, run.base)
        else jnp.zeros((), dtype_of_base(run.base))
        for name, target in run.targets.items()
    }
    scalars = [name for name, x in still.items() if _is_scalar(x)]
    dtype = dtype_of_base(run.base)
    small = _STEP if dtype == np.float64 else _STEP_SINGLE

    def of(moved, adjoint=None):
        path = run.path(moved, continuous, adjoint)
        return (jnp.asarray(run.outcome(path)), path.loss), path.result

    forward = lambda moved: of(moved, dfx.ForwardMode())
    (value, _), result = of(still)
    gradient, difference, along = {}, {}, {}
    if scalars:
        by = lambda row: (
            still | {name: row[i].astype(still[name].dtype) for i, name in enumerate(scalars)}
        )
        units = jnp.eye(len(scalars), dtype=dtype)
        # one after another, so that what is shared is not computed for all at once
        slope = lambda row: jax.jvp(forward, (still,), (by(row),), has_aux=True)[1]
        slopes, along_path = jax.lax.map(slope, units)
        steps = jnp.stack([jnp.asarray(scales[name] * small, dtype) for name in scalars])
        offsets, weights = jnp.asarray(_OFFSETS, dtype), jnp.asarray(_WEIGHTS, dtype)
        grid = (units * steps[:, None])[:, None, :] * offsets[None, :, None]
        there = jax.lax.map(lambda row: of(by(row))[0][0], grid.reshape(-1, len(scalars)))
        quotients = there.reshape(-1, 4) @ weights / steps
        for i, name in enumerate(scalars):
            gradient[name], difference[name], along[name] = slopes[i], quotients[i], along_path[i]
    for name in run.targets:
        if name not in scalars:
            alone = lambda x, name=name: of(still | {name: x})[0][0]
            gradient[name] = jax.grad(alone)(still[name])
            size = _size(gradient[name])
            direction = jax.tree.map(lambda g, n=size: g / jnp.where(n > 0, n, 1.0), gradient[name])
            step = jnp.asarray(scales[name] * small, dtype)
            to = lambda k, d=direction, h=step: jax.tree.map(lambda d: d * (k * h), d)
            there = jax.lax.map(lambda k, f=alone, to=to: f(to(k)), jnp.asarray(_OFFSETS, dtype))
            difference[name] = there @ jnp.asarray(_WEIGHTS, dtype) / step
    gradient = {name: gradient[name] for name in run.targets}
    difference = {name: difference[name] for name in run.targets}
    error = {}
    for name, g in gradient.items():
        own = g if name in scalars else _size(g)
        larger = jnp.maximum(abs(own), abs(difference[name]))
        error[name] = abs(own - difference[name]) / jnp.where(larger > 0, larger, 1.0)
    return Derivative(value, gradient, difference, error, along), result


def _names(wrt: Any) -> tuple[str, ...]:
    names = (wrt,) if isinstance(wrt, str) else tuple(wrt)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"Argument `wrt` must be names, each of them once, but is {wrt!r}.")
    return names


def _positive(rtol: Any) -> float:
    if isinstance(rtol, bool) or not isinstance(rtol, float | int) or not 0 < rtol < 1:
        raise ValueError(f"Argument `rtol` must lie in (0, 1), but is {rtol!r}.")
    return float(rtol)


def _marks(steps: Any, ts: Any) -> tuple[int, ...]:
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise ValueError(f"Argument `steps` must be a positive integer, but is {steps!r}.")
    if ts is None:
        return tuple(int(k) for k in np.unique(np.round(np.linspace(0, steps, 101))))
    marks = np.asarray(ts)
    increasing = marks.ndim == 1 and marks.size > 1 and np.all(np.diff(marks) > 0)
    if not increasing or np.any(marks != np.round(marks)) or (marks[0], marks[-1]) != (0, steps):
        raise ValueError(
            f"Argument `ts` must be increasing integers from 0 to {steps} (`steps`), but is {ts!r}."
        )
    return tuple(int(k) for k in marks)


def _is_decay(target: Target, base: Base) -> bool:
    return target.field is not None and isinstance(getattr(base.model, target.field), Decay)


def _check_decay(name: str, target: Target, model: AbstractModel) -> None:
    decay = getattr(model, target.field) if target.field is not None else None
    if isinstance(decay, Decay) and bool(np.any(decay.complement == 1.0)):
        raise ValueError(
            f"Argument `wrt` must not have {name!r} where it is 0: the equation has no derivative "
            f"there, its difference quotients grow like 1/ln {name}. Take {name} > 0."
        )


def _scale(target: Target, base: Base) -> Any:
    """What a step of a difference is small against."""
    if _is_decay(target, base):
        assert target.field is not None
        decay = getattr(base.model, target.field)
        return np.minimum(decay.complement, decay.value)
    if target.field == "eps":  # so small that outcomes are linear in it, and barely change
        return 400.0 * target.of(base)
    sizes = [jnp.max(abs(x)) for x in jax.tree.leaves(_floating(target.of(base))) if x.size]
    size = jnp.max(jnp.stack(sizes))
    return jnp.where(size > 0, size, 1.0)


def _floating(tree: Any) -> Any:
    return jax.tree.map(jnp.asarray, eqx.filter(tree, eqx.is_inexact_array))


def _is_scalar(x: Any) -> bool:
    leaves = jax.tree.leaves(x)
    return len(leaves) == 1 and leaves[0].ndim == 0


def _size(tree: Any) -> Any:
    """The norm of a gradient; of a scalar, itself."""
    leaves = jax.tree.leaves(tree)
    if len(leaves) == 1 and leaves[0].ndim == 0:
        return leaves[0]
    return jnp.sqrt(sum(jnp.sum(x * x) for x in leaves))


def _apart(a: Any, b: Any) -> Any:
    """The distance of two gradients, relative to the second."""
    norm = lambda tree: jnp.sqrt(sum(jnp.sum(x * x) for x in jax.tree.leaves(tree)))
    size = norm(b)
    return norm(jax.tree.map(jnp.subtract, a, b)) / jnp.where(size > 0, size, 1.0)
