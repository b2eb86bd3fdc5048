"""The one front door."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import diffrax as dfx
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from ._checks import all_finite, by_name, first_difference, is_concrete
from ._equation import Augmented, Equation, cast, dtype_of
from ._flow import FlowEquation, InterpolatingFlow, by_path
from ._flow_report import looked_at, with_model_error
from ._method import AbstractMethod, FixedPoint, History, Markov
from ._method.base import Answer, Problem, describe, is_advanced
from ._method.rodas5p import IMPLICIT_PARAMETERS
from ._model import AbstractModel, breakpoints_of, without_derivative_of_jumps
from ._optax_state import first_of, memories_in
from ._parameters import as_parameters, check_model, check_objective
from ._programs import program
from ._results import (
    RESULTS,
    State,
    Trajectory,
    fill_past,
    is_okay,
    losses,
)
from ._second import has_forward, has_jacobian, no_derivative
from ._types import Flag, Moments, Objective, Path, Scalar, Theta

# In the order in which they are tried where the user names none.
_METHODS = (Markov(), FixedPoint(), History())
# `rtol` of a flow, whose model error is often far below the default's.
_FLOW = 1e-6


def solve(
    model: AbstractModel | InterpolatingFlow,
    objective: Objective,
    theta0: Theta,
    ts: Any,
    *,
    args: PyTree[Any] = None,
    method: AbstractMethod | None = None,
    state0: State | None = None,
    save: Callable[..., PyTree[Any]] | None = None,
    adjoint: dfx.AbstractAdjoint | None = None,
    throw: bool = True,
) -> Trajectory:
    """Solves the equation of an optimizer.

    Works under `eqx.filter_jit`, `vmap` and `grad`. New values of hyperparameters, of `theta0`,
    `ts` and `args` do not compile anew; a new objective or a new method does, and for `History` a
    new last step.

    **Arguments:**

    - `model`: an optimizer, such as [`idemodels.Adam`][], or an [`idemodels.InterpolatingFlow`][].
    - `objective`: `objective(theta)`, or `objective(theta, args)` when `args` is given, returning
        a scalar. Pass data as `args`, or as fields of an `eqx.Module`. Its derivative may be its
        own, by `jax.custom_vjp`: no method of `method=None` needs forward mode.
    - `theta0`: any pytree. Its floating arrays move, in the widest of their types and float32, so
        that parameters in half precision (bfloat16, float16) have a path in single; every other
        leaf is held fixed. A number alone will do.
    - `ts`: where the path is wanted, in optimizer steps: shape `(T,)`, increasing, from 0, or from
        `state0.s`. Not where the solver steps.
    - `method`: if `None`, what the model needs: [`idemodels.Markov`][], with `rtol=1e-6` for a
        flow; [`idemodels.FixedPoint`][] where a moment is read ahead; [`idemodels.History`][] where
        a kernel has no finite state space.
    - `state0`: where to go on from: `trajectory.state_at(k)`, or
        [`idemodels.state_from_optax`][]. Its theta, where it has one, replaces `theta0`.
    - `save`: `save(s, theta, moments)`, kept in the place of theta, so that the path of a large
        network need not be; a pytree of arrays. Moments are then not kept either.
    - `adjoint`: how to differentiate: a diffrax adjoint for forward mode, or one that goes
        through the solver's steps. `None` does reverse mode only: it
        differentiates the solver's accepted steps, in a smaller program than that of
        `diffrax.RecursiveCheckpointAdjoint`, which stands in where there is an `event`. The states
        before 4096 steps are kept, or as many as 128 MiB hold, or 16; the others are recomputed.
        The ends of steps take 17 bytes more for each of `max_steps`. For forward mode pass
        `diffrax.ForwardMode()`; for a Hessian take `jax.jacfwd` twice with it, since
        `diffrax.DirectAdjoint` compiles for minutes there.
    - `throw`: whether to raise if the solve fails. Under `vmap` one failing lane raises for all:
        pass `throw=False` and read `.result` lane by lane.

    **Returns:** an [`idemodels.Trajectory`][]. Past a failure its values are NaN.

    **Raises:** `ValueError` for an argument that is not as above, or a gradient that is not finite
    at `theta0`; `RuntimeError` with advice if the solve fails and `throw` is set; `TypeError` or
    `RuntimeError` where it is differentiated in the mode that `adjoint` does not do; `TypeError`
    where the objective has not the derivatives that `adjoint` or the method asks for.
    """
    check_model(model, MODELS, "a model such as `idemodels.Adam(0.1)`, or a flow")
    method = default_method(model) if method is None else method
    check_method(method, model)
    _check_adjoint(adjoint)
    if state0 is not None and not isinstance(state0, State):
        raise ValueError(
            f"Argument `state0` must be an `idemodels.State` or None, but is {state0!r}. Write "
            "`trajectory.state_at(k)`, or `idemodels.state_from_optax(model, opt_state)`."
        )
    if state0 is not None and state0.theta is not None:
        theta0 = state0.theta
    theta, rest = as_parameters(theta0)
    dtype = dtype_of(theta)
    check_objective(objective, eqx.combine(theta, rest), args)
    start = None if state0 is None else state0.s
    given = ts
    ts, valid = as_steps(ts, start, resumed=state0 is not None, dtype=dtype)
    method = method.prepare(given, state0, dtype)
    held = Held(objective, rest)
    equation = equation_for(model, held, args, theta)
    breakpoints = known_breakpoints(model, ts, method)
    with _derivatives_told(held, args, theta, adjoint):
        problem = prepare(equation, theta, _states_of(state0), ts, valid, save, breakpoints)
        if is_concrete(problem.g0):
            check_gradient(problem.g0)
        answer = _answer(method, problem, adjoint)
        trajectory = report(problem, answer, state0 is not None)
    if isinstance(model, InterpolatingFlow) and model.predict_error:
        finer = model.changed(order=model.order + 1, predict_error=False, check=False)
        options = {"args": args, "method": method, "save": save, "adjoint": adjoint}
        again = solve(finer, objective, theta0, ts, **options, state0=state0, throw=False)
        trajectory = with_model_error(trajectory, again)
    if throw:
        trajectory = _raise(trajectory, answer.s)
    if isinstance(equation, FlowEquation) and equation.model.check:
        trajectory = looked_at(equation, trajectory)
    return trajectory


# What has an equation.
MODELS = (AbstractModel, InterpolatingFlow)


def equation_for(model: Any, objective: Any, args: Any, theta: Any) -> Equation | FlowEquation:
    """The equation of a model or a flow, for parameters like `theta`."""
    if isinstance(model, InterpolatingFlow):
        return FlowEquation.of(model, objective, args, theta)
    model = cast(model, dtype_of(theta))
    if model.scheduled:
        rate = without_derivative_of_jumps(model.learning_rate)
        model = eqx.tree_at(lambda model: model.learning_rate, model, rate)
    return Equation(model, objective, args)


def known_breakpoints(model: Any, ts: Path, method: AbstractMethod) -> Any:
    """Where the right-hand side is known to jump or have a kink in s; see `Problem`."""
    if isinstance(model, InterpolatingFlow):
        return jnp.zeros(0, ts.dtype)
    return breakpoints_of(model, ts, method.told)


def _answer(method: AbstractMethod, problem: Problem, adjoint: Any) -> Answer:
    """What the method finds, with errors where it is differentiated as `adjoint` does not do."""
    checkpoints = adjoint is None or isinstance(adjoint, dfx.RecursiveCheckpointAdjoint)
    if checkpoints and isinstance(method, Markov):
        problem = jax.tree.map(_differentiated_once, problem)
    answer = method.run(problem, adjoint)
    if isinstance(adjoint, dfx.ForwardMode):
        answer = eqxi.nondifferentiable_backward(answer, msg=_FORWARD_ONLY)
    return answer


@contextlib.contextmanager
def _derivatives_told(
    objective: Objective, args: Any, theta: PyTree[Array], adjoint: Any
) -> Iterator[None]:
    """Tells by name what has not the derivative that is asked for inside.

    **Raises:** `TypeError` in forward mode where `adjoint` does reverse mode only, or the objective
    has no forward mode.
    """
    try:
        yield
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as e:
        if not no_derivative(e):
            raise
        given = () if args is None else (args,)
        loss = lambda theta: objective(theta, *given)
        needed = {"a gradient with forward mode": jax.grad(loss), "forward mode": loss}
        for what, function in needed.items():
            if not has_forward(function, theta):
                raise TypeError(_NO_FORWARD.format(what, str(e).splitlines()[0])) from None
        if "custom_vjp" not in str(e):
            raise
        found = "None" if adjoint is None else f"diffrax.{type(adjoint).__name__}()"
        raise TypeError(
            f"Argument `adjoint` must be one for forward mode (jvp, jacfwd), but is {found}, which "
            "does reverse mode only. Pass `adjoint=diffrax.ForwardMode()`; for a Hessian take "
            "`jax.jacfwd` twice with it."
        ) from None


_NO_FORWARD = (
    "Argument `objective` must have {} (jvp) for derivatives in forward mode and for solvers with "
    "Jacobians, but has none: {} Write its rule as a `jax.custom_jvp`. Or differentiate in reverse "
    "mode, `adjoint=None`, and solve with `idemodels.Markov()` or an explicit solver."
)
_FORWARD_ONLY = (
    "Argument `adjoint` must be one for reverse mode (grad, vjp, jacrev), but is "
    "diffrax.ForwardMode(), which does forward mode only. Pass `adjoint=None`; for a Hessian take "
    "`jax.jacfwd` twice instead."
)


def _differentiated_once(x: Any) -> Any:
    """`x`, with an error where reverse mode is taken of reverse mode."""
    return _once(x) if eqx.is_inexact_array(x) and not is_concrete(x) else x


@jax.custom_vjp
def _once(x: Array) -> Array:
    return x


_once.defvjp(
    lambda x: (x, None),
    lambda _, cotangent: (eqxi.nondifferentiable(cotangent, msg=_REVERSE_ONCE),),
)
_REVERSE_ONCE = (
    "Argument `adjoint` must be one for second derivatives, but is None or "
    "diffrax.RecursiveCheckpointAdjoint(), which reverse mode is taken of once. For a Hessian pass "
    "`adjoint=diffrax.ForwardMode()`, and take `jax.jacfwd` twice."
)


class Held(eqx.Module):
    """An objective of the floating arrays alone: the other leaves are put back here."""

    objective: Objective
    rest: PyTree[Any]

    def __call__(self, theta: Theta, *args: Any) -> Any:
        return self.objective(eqx.combine(theta, self.rest), *args)


class _Keep(eqx.Module):
    """What is kept of a state, where the path is wanted."""

    equation: Equation | FlowEquation
    save: Callable[..., PyTree[Any]] | None

    def __call__(self, s: Any, y: Augmented, moments: Moments | None = None) -> PyTree[Any]:
        if self.save is None and moments is None:
            return {"state": State(s, y.theta, y.memory, y.velocity)}
        if self.save is None:
            return {"theta": y.theta, "moments": moments}
        moments = self.equation.unpack(s, y)[1] if moments is None else moments
        theta = eqx.combine(y.theta, self.equation.objective.rest)  # pyright: ignore
        saved = jax.tree.map(jnp.asarray, self.save(s, theta, moments))
        return {"saved": saved, "loss": self.equation.loss(y.theta)}


@program
def prepare(
    equation: Equation | FlowEquation, theta, state0, ts, valid, save, breakpoints
) -> Problem:
    y0 = equation.start(theta)
    if state0 is not None:
        y0 = dataclasses.replace(y0, memory=_taken("memory", state0.memory, y0.memory))
        if state0.velocity is not None:
            velocity = _taken("velocity", state0.velocity, y0.velocity)
            y0 = dataclasses.replace(y0, velocity=velocity)
    g0 = equation.gradient(y0.theta, y0.fixed)
    valid = valid & all_finite(g0) & equation.model.valid()
    problem = Problem(equation, y0, g0, ts, _Keep(equation, save), valid, breakpoints)
    if isinstance(equation, FlowEquation) or problem.parameters > IMPLICIT_PARAMETERS:
        return problem
    curved = has_jacobian(lambda theta: equation.gradient(theta, y0.fixed), y0.theta)
    return dataclasses.replace(problem, curved=curved)


def _taken(name: str, given: PyTree[Any], like: PyTree[Array]) -> PyTree[Array]:
    """What a state has by `name`, as the equation has it; arrays are matched by their paths."""
    apart = first_difference(name, given, like, ("the state", "the equation"))
    if apart is not None:
        raise ValueError(
            f"Argument `state0` must be of this model and of parameters like `theta0`, but {apart}."
        )
    arrays = by_name(given)
    put = lambda path, old: jnp.asarray(arrays[jax.tree_util.keystr(path)], old.dtype)
    return jax.tree_util.tree_map_with_path(put, like)


@program
def _finish(problem: Problem, answer: Answer) -> tuple[Any, ...]:
    equation, kept, ts = problem.equation, answer.kept, problem.ts
    rows = (ts <= answer.s) & problem.valid
    given = equation, problem.y0, ts
    kept = fill_past(rows, kept, given)
    times = equation.times(ts, problem.breakpoints)
    if "saved" in kept:
        return times, kept["saved"], kept["loss"], {}, None, answer.y
    states = kept.get("state")
    if states is None:
        theta, moments = kept["theta"], kept["moments"]
    else:
        theta = states.theta
        moments = jax.vmap(equation.read)(states.memory) if states.memory else {}
    return times, theta, losses(equation.loss, theta), moments, states, answer.y


def report(problem: Problem, answer: Answer, resumed: bool) -> Trajectory:
    times, theta, loss, moments, states, y = _finish(problem, answer)
    rest = problem.equation.objective.rest  # pyright: ignore[reportFunctionMemberAccess]
    saved = "saved" in answer.kept
    theta = theta if saved else eqx.combine(theta, rest)
    if states is not None:
        states = dataclasses.replace(states, s=problem.ts, theta=theta)
    last = None
    flows = isinstance(problem.equation, FlowEquation)
    remembered = problem.y0.memory if flows else problem.equation.model.memories()
    if y.memory.keys() == remembered.keys():
        last = State(answer.s, eqx.combine(y.theta, rest), y.memory, y.velocity)
    stats = answer.stats
    if problem.equation.model.nonnegative and not saved:
        holds = _guaranteed(problem, theta)
        if resumed:  # what was seen before the start is not known
            holds = jnp.zeros_like(holds)
        # where the lemma, which sees g at `ts` alone, is refuted
        holds = holds & (problem.ts < stats.get("clamped_from", jnp.inf))
        made = stats["num_gradients"]
        made = jnp.where(made < 0, made, made + problem.ts.size)
        stats = {**stats, "positivity_guaranteed": holds, "num_gradients": made}
    ends = answer.result, stats, states, last
    return Trajectory(problem.ts, times, theta, loss, moments, *ends, source="equation")


@program
def _guaranteed(problem: Problem, thetas: Theta) -> Bool[Array, " t"]:
    """Up to which of `ts` the paper's lemma says that the second moment is positive."""
    equation: Any = problem.equation
    thetas = eqx.filter(thetas, eqx.is_inexact_array)
    gradients = jax.lax.map(lambda x: equation.gradient(x, problem.y0.fixed), thetas)

    def leaf(g):
        squared = g * g
        least, most = jax.lax.cummin(squared), jax.lax.cummax(squared)
        holds = equation.model.moment_stays_positive(least, most) & jnp.isfinite(g)
        return jnp.all(holds.reshape(holds.shape[0], -1), axis=1)

    return jnp.all(jnp.stack(jax.tree.leaves(jax.tree.map(leaf, gradients))), axis=0)


def _raise(trajectory: Trajectory, reached: Scalar) -> Trajectory:
    result = trajectory.result
    if not is_concrete(trajectory):
        return result.error_if(trajectory, ~is_okay(result))
    if not bool(_all_okay(result)):
        raise RuntimeError(
            f"The solve stopped at s = {float(reached):.6g} of {float(trajectory.ts[-1]):.6g}. "
            f"{RESULTS[result]} Pass `throw=False` to get the path up to there, and its `stats`."
        )
    return trajectory


@program
def _all_okay(result: RESULTS) -> Flag:
    return jnp.all(is_okay(result))


def default_method(model: AbstractModel | InterpolatingFlow) -> AbstractMethod:
    """The first of the methods that solves the equation; that of `check_method` if none does."""
    if isinstance(model, InterpolatingFlow):
        return Markov(rtol=_FLOW)
    return next((method for method in _METHODS if method.solves(model)), _METHODS[0])


def _check_adjoint(adjoint: Any) -> None:
    """Raises unless `adjoint` is None, or a diffrax adjoint that saves at times."""
    refused = dfx.BacksolveAdjoint | dfx.ImplicitAdjoint
    known = isinstance(adjoint, dfx.AbstractAdjoint) and not isinstance(adjoint, refused)
    if adjoint is None or known:
        return
    raise ValueError(
        "Argument `adjoint` must be None, `diffrax.ForwardMode()`, `diffrax.DirectAdjoint()` or "
        f"`diffrax.RecursiveCheckpointAdjoint()`, but is {adjoint!r}."
    )


def check_method(method: Any, model: AbstractModel | InterpolatingFlow) -> None:
    """Raises unless `method` is one of ours, and one for the equation of `model`."""
    if not isinstance(method, AbstractMethod):
        hint = ""
        if isinstance(method, dfx.AbstractSolver):
            hint = f" For a diffrax solver write `idemodels.Markov({type(method).__name__}())`."
        raise ValueError(
            "Argument `method` must be a method such as `idemodels.Markov()`, but is "
            f"{method!r}.{hint}"
        )
    if not method.solves(model):
        raise ValueError(
            f"Argument `method` must be one that solves the equation of this model, "
            f"{describe(model)}, but is {type(method).__name__}. {_advice(model)}"
        )


def _advice(model: AbstractModel | InterpolatingFlow) -> str:
    fitting = [f"`idemodels.{type(m).__name__}()`" for m in _METHODS if m.solves(model)]
    if fitting:
        return f"Use {' or '.join(fitting)}."
    then = "FixedPoint" if is_advanced(model) else "Markov"
    advice = "No method does: replace its kernel by `idemodels.fit_exponentials(kernel, ...)`"
    return f"{advice}, and use `idemodels.{then}()`."


def _states_of(state0: State | None) -> State | None:
    """What of a state goes into the equation: not the step, which may be a Python number."""
    return None if state0 is None else State(None, None, state0.memory, state0.velocity)


def check_gradient(g: PyTree[Any]) -> None:
    """Raises if the first gradient is not finite, naming the leaf."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(g):
        bad = ~np.isfinite(np.asarray(leaf))
        if bad.any():
            where = jax.tree_util.keystr(path) or "theta"
            raise ValueError(
                "Argument `objective` must have a finite gradient at `theta0`, but has "
                f"{np.asarray(leaf)[bad][0]} there ({int(bad.sum())} of {bad.size} components of "
                f"{where})."
            )


def as_steps(ts: Any, start: Any, *, resumed: bool, dtype: Any) -> tuple[Path, Any]:
    """`ts` as an array of `dtype`, and the flag whether it increases from `start`.

    **Raises:** `ValueError` where it is known and does not.
    """
    ts = jnp.asarray(ts)
    if ts.ndim != 1 or ts.size == 0:
        raise ValueError(
            f"Argument `ts` must have shape (T,) with T > 0, but has shape {ts.shape}."
        )
    if jnp.issubdtype(ts.dtype, jnp.complexfloating):
        raise ValueError(f"Argument `ts` must be real, but has type {ts.dtype}.")
    ts = ts.astype(dtype)
    start = (ts[0] if resumed else jnp.zeros((), dtype)) if start is None else start
    start = jnp.asarray(start, dtype)
    if is_concrete((ts, start)):
        host = np.asarray(ts)
        if not np.all(np.isfinite(host)):
            raise ValueError(
                f"Argument `ts` must be finite, but has {host[~np.isfinite(host)][0]}."
            )
        if np.any(np.diff(host) <= 0):
            k = int(np.argmax(np.diff(host) <= 0))
            raise ValueError(
                "Argument `ts` must be strictly increasing, but has "
                f"{host[k]} before {host[k + 1]} (at index {k})."
            )
        if not np.isclose(host[0], np.asarray(start), rtol=1e-6, atol=0) or host[0] < 0:
            if resumed:
                raise ValueError(
                    f"Argument `ts` must start at {float(start)}, the `s` of `state0`, but starts "
                    f"at {host[0]}."
                )
            raise ValueError(
                f"Argument `ts` must start at 0, but starts at {host[0]}. To go on from there pass "
                "`state0=trajectory.state_at(k)`."
            )
        return ts, jnp.ones((), bool)
    valid = jnp.all(jnp.isfinite(ts)) & jnp.all(ts[1:] > ts[:-1]) & jnp.isclose(ts[0], start)
    return ts, valid & (ts[0] >= 0)


def state_from_optax(model: AbstractModel | InterpolatingFlow, opt_state: Any) -> State:
    """An optimizer's state as the place to go on from with the equation.

    The path is the optimizer's if the hyperparameters are: a state does not have them. Nor does it
    tell Adam from those that use its memories otherwise (`optax.nadam`, `optax.radam`,
    `optax.lamb`), or keep others in a state of its class (`optax.adamax`, `optax.yogi`,
    `optax.contrib.adopt`): their model is [`idemodels.InterpolatingFlow`][].

    **Arguments:**

    - `model`: the model, or the flow, whose discrete twin made it.
    - `opt_state`: the state of an optax transformation: of `model.optax()`, of `optax.adam`, or of
        a chain that contains such; also inside of `optax.apply_if_finite`,
        `optax.inject_hyperparams`, `optax.MultiSteps` (after a whole step), and of `optax.masked`
        and `optax.partition`, where together they move every parameter.

    **Returns:** an [`idemodels.State`][] without parameters: pass those as `theta0`. Its `s` is
    optax's count; `None` where the state has none, and then `ts` may start anywhere.

    **Raises:** `ValueError` if `opt_state` has not the memories of the model, or has others too,
    as those of `optax.amsgrad` or of a momentum; if a parameter has none, or its parts have not
    made equally many steps.
    """
    check_model(model, MODELS, "a model such as `idemodels.Adam(0.1)`, or a flow")
    if isinstance(model, InterpolatingFlow):
        return State(first_of(opt_state, "count"), None, by_path(opt_state))
    if model.inertial:
        raise ValueError(
            f"Argument `model` must be of first order, but is {type(model).__name__}: an "
            "optimizer's state has neither its velocity nor the derivatives of its moments."
        )
    memory, count = memories_in(opt_state, model)
    return State(count, None, eqx.filter(memory, eqx.is_inexact_array))
