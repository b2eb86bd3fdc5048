"""Derivatives of what comes of a run, for the equation and for the discrete algorithm."""

import warnings
from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from ._checks import check_count
from ._discrete import marks_of
from ._flow import InterpolatingFlow
from ._method import AbstractMethod, Markov
from ._model import AbstractModel
from ._parameters import as_parameters, check_model, check_objective, check_real_scalar
from ._programs import program
from ._results import RESULTS, Trajectory, is_okay
from ._run import Run, floating
from ._second import has_forward
from ._solve import MODELS, default_method
from ._target import Base, Target, dtype_of_base, target_of
from ._types import Path, Scalar

# The derivative wanted, over the solver's tolerance: steps carry no derivative.
_TIGHTER = 1e-3
_TIGHTEST, _TIGHTEST_SINGLE = 1e-12, 1e-6
# The step of a difference, of the scale of what is moved, in double and in single precision. The
# formula's error is its fourth power; shorter, and the solver's choice of steps, which changes an
# outcome by some 1e-12, would show in the difference (2e-5 of one in b2, with 1e-3).
_STEP, _STEP_SINGLE = 5e-3, 3e-2
# f'(x) = sum of weight f(x + offset h) / h, of fourth order; in the middle is f(x) itself.
_OFFSETS = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
_WEIGHTS = np.array([1.0, -8.0, 0.0, 8.0, -1.0]) / 12.0
_MIDDLE = 2
# A tiny eps moves by up to four tenths of itself: outcomes are as good as linear in it, and barely
# change.
_TIMES_EPS, _TINY_EPS = 80.0, 8e-7


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
    model: AbstractModel | InterpolatingFlow,
    objective: Callable[..., Any],
    theta0: Any,
    steps: int,
    outcome: Callable[[Trajectory], Any] = final_loss,
    wrt: Any = ("learning_rate", "b1", "b2"),
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
    - `wrt`: a name, or several, as in [`idemodels.sweep`][]: of hyperparameters as the constructor
        has them, `"theta0"`, `"args"`, or any array of model or objective by its path.
    - `ts`: integers, the steps of the trajectories, to which the first and the last are added; 101
        of them, evenly spread, if `None`.
    - `method`: `None` is what the model needs, at a tolerance a thousandth of `rtol`, never held.
    - `rtol`: how exact the derivatives are to be, relatively; 1e-6 if `None`, 1e-2 in single
        precision.

    **Returns:** an [`idemodels.Sensitivity`][].

    **Raises:** `ValueError` for an argument that is not as above, and for a decay of 0, in which
    there is no derivative; `RuntimeError` if the solve fails.

    **Warns:** `UserWarning` where gradient and difference of a side are further apart than ten
    times `rtol`. So they are where there is no derivative, as in theta0 where a component of the
    gradient is 0 at the start; and where the outcome hardly depends on the name, so that the
    difference is rounding.
    """
    check_model(model, MODELS, "a model such as `idemodels.Adam(0.1)`, or a flow")
    theta, rest = as_parameters(theta0)
    base = Base(model, objective, eqx.combine(theta, rest), args)
    check_objective(objective, base.theta0, args)
    targets = {name: target_of(base, name, "wrt") for name in _names(wrt)}
    for name, target in targets.items():
        _check_decay(name, target, base)
    dtype = dtype_of_base(base)
    double = dtype == np.float64
    rtol = (1e-6 if double else 1e-2) if rtol is None else _positive(rtol)
    if method is None:
        method = default_method(model)
        if isinstance(method, Markov):
            tight = max(_TIGHTER * rtol, _TIGHTEST if double else _TIGHTEST_SINGLE)
            method = Markov(rtol=tight, atol=1e-3 * tight, steady_tol=None)
    check_count(steps, "steps")
    inside = np.round(np.linspace(0, steps, 101)) if ts is None else marks_of(steps, ts)
    marks = tuple(int(k) for k in np.unique([0, *inside, steps]))
    run = Run(base, targets, marks, method)
    scalars = [name for name, x in run.still().items() if _is_scalar(x)]
    if scalars:
        _check_forward(objective, theta, rest, args, scalars[0])
    check_real_scalar("outcome", lambda: outcome(run.path({}, False)))
    scales = {name: _scale(target, base) for name, target in targets.items()}
    equation, result = _derivative(run, outcome, scales, True)
    if not bool(is_okay(result)):
        raise RuntimeError(f"The equation was not solved up to the last step. {RESULTS[result]}")
    # optax's count is an integer, and its tangent mixes with floats
    with jax.numpy_dtype_promotion("standard"):
        discrete, _ = _derivative(run, outcome, scales, False)
    for side, found in (("equation", equation), ("discrete run", discrete)):
        for name, error in found.error.items():
            if not error <= 10 * rtol:  # nor where it is NaN
                warnings.warn(
                    f"The derivative of the {side} in {name!r} is {float(error):.1e} away from its "
                    f"central difference, more than ten times `rtol` = {rtol:g}. Start where no "
                    "component of the gradient is 0, lower `rtol`, or shorten `steps`: over a long "
                    "horizon a derivative may mean nothing.",
                    stacklevel=2,
                )
    apart = {name: _apart(equation.gradient[name], discrete.gradient[name]) for name in targets}
    known = jnp.asarray(marks, dtype)
    return Sensitivity(equation, discrete, apart, known, getattr(method, "rtol", None), result)


def _check_forward(objective: Any, theta: Any, rest: Any, args: Any, name: str) -> None:
    given = () if args is None else (args,)
    loss = lambda theta: objective(eqx.combine(theta, rest), *given)
    if not (has_forward(jax.grad(loss), theta) and has_forward(loss, theta)):
        raise ValueError(
            "Argument `objective` must have forward mode (jvp), as must its gradient, for the "
            f"derivative in the scalar argument {name!r}, but has none, as a `jax.custom_vjp` has "
            "none. Write its rule as a `jax.custom_jvp`, or take `jax.grad` of `idemodels.solve`."
        )


@program
def _derivative(
    run: Run, outcome: Callable[..., Any], scales: dict[str, Any], continuous: bool
) -> tuple[Derivative, Any]:
    still = run.still()
    scalars = [name for name, x in still.items() if _is_scalar(x)]
    arrays = {name: x for name, x in still.items() if name not in scalars}

    def of(moved, adjoint=None):
        path = run.path(still | moved, continuous, adjoint)
        return jnp.asarray(outcome(path)), path

    def ahead(moved):
        value, path = of(moved, dfx.ForwardMode())
        return value, path.loss

    gradient, along, direction = {}, {}, {}
    if arrays:
        gradient |= jax.grad(lambda moved: of(moved)[0])(arrays)
        direction |= {name: _unit(g) for name, g in gradient.items()}
    if scalars:
        units = {name: jnp.ones_like(still[name]) for name in scalars}
        slope = lambda unit: jax.jvp(ahead, (still,), (unit,))[1]
        # one after another, so that what they share is not computed for all at once
        slopes, losses = jax.lax.map(slope, _each(still, units))
        gradient |= {name: slopes[i] for i, name in enumerate(scalars)}
        along |= {name: losses[i] for i, name in enumerate(scalars)}
        direction |= units
    direction = {name: direction[name] for name in still}
    difference, value, result = _differences(of, still, direction, scales)
    gradient = {name: gradient[name] for name in still}
    error = {name: _error(_size(g), difference[name]) for name, g in gradient.items()}
    return Derivative(value, gradient, difference, error, along), result


def _differences(of: Any, still: Any, direction: Any, scales: Any) -> tuple[Any, Scalar, Any]:
    """By name the central difference along a direction, and outcome and result where none moves."""
    dtype = jnp.result_type(*jax.tree.leaves(still))
    small = _STEP if dtype == np.float64 else _STEP_SINGLE
    offsets, weights = jnp.asarray(_OFFSETS, dtype), jnp.asarray(_WEIGHTS, dtype)
    steps = jnp.stack([jnp.asarray(small * scales[name], dtype) for name in direction])

    def at(point):
        value, path = of(point)
        return value, path.result

    def points(given):
        way, step = given
        to = lambda k: jax.tree.map(lambda d: d * (k * step).astype(d.dtype), way)
        return jax.lax.map(lambda k: at(to(k)), offsets)

    values, results = jax.lax.map(points, (_each(still, direction), steps))
    quotients = values @ weights.astype(values.dtype) / steps
    difference = {name: quotients[i] for i, name in enumerate(direction)}
    return difference, values[0, _MIDDLE], jax.tree.map(lambda x: x[0, _MIDDLE], results)


def _each(still: dict[str, Any], moved: dict[str, Any]) -> dict[str, Any]:
    """Each of `moved` alone, along a leading axis."""
    rows = [still | {name: x} for name, x in moved.items()]
    return jax.tree.map(lambda *x: jnp.stack(x), *rows)


def _names(wrt: Any) -> tuple[str, ...]:
    names = (wrt,) if isinstance(wrt, str) else tuple(wrt)
    if not names or len(set(names)) < len(names) or not all(isinstance(x, str) for x in names):
        raise ValueError(f"Argument `wrt` must be names, each of them once, but is {wrt!r}.")
    return names


def _positive(rtol: Any) -> float:
    if isinstance(rtol, bool) or not isinstance(rtol, float | int) or not 0 < rtol < 1:
        raise ValueError(f"Argument `rtol` must lie in (0, 1), but is {rtol!r}.")
    return float(rtol)


def _check_decay(name: str, target: Target, base: Base) -> None:
    decay = target.decay(base)
    if decay is not None and bool(np.any(decay.complement == 1.0)):
        raise ValueError(
            f"Argument `wrt` must not have {name!r} where it is 0: the equation has no derivative "
            f"there, its difference quotients grow like 1/ln {name}. Take {name} > 0."
        )


def _scale(target: Target, base: Base) -> Any:
    """What a step of a difference is small against."""
    decay = target.decay(base)
    if decay is not None:
        return np.minimum(decay.complement, decay.value)
    if target.field == "eps":
        eps = target.of(base)
        return jnp.maximum(eps, jnp.minimum(_TIMES_EPS * eps, _TINY_EPS))
    if isinstance(base.model, InterpolatingFlow) and target.part == "model":
        value = target.of(base)  # which may be a decay near 1
        return jnp.where((value > 0) & (value < 1), jnp.minimum(value, 1 - value), 1.0)
    size = optax.tree.norm(floating(target.of(base)), ord="inf")
    return jnp.where(size > 0, size, 1.0)


def _is_scalar(x: Any) -> bool:
    return [leaf.shape for leaf in jax.tree.leaves(x)] == [()]


def _size(tree: Any) -> Any:
    """The norm of a gradient; of a scalar, itself."""
    return jax.tree.leaves(tree)[0] if _is_scalar(tree) else optax.tree.norm(tree)


def _unit(tree: Any) -> Any:
    """A gradient's direction; zeros where it is zero."""
    size = optax.tree.norm(tree)
    return jax.tree.map(lambda x: x / jnp.where(size > 0, size, 1.0), tree)


def _error(a: Any, b: Any) -> Any:
    """The distance of two numbers, relative to the larger."""
    larger = jnp.maximum(abs(a), abs(b))
    return abs(a - b) / jnp.where(larger == 0, 1.0, larger)  # NaN stays NaN


def _apart(a: Any, b: Any) -> Any:
    """The distance of two gradients, relative to the second."""
    size = optax.tree.norm(b)
    return optax.tree.norm(jax.tree.map(jnp.subtract, a, b)) / jnp.where(size == 0, 1.0, size)
