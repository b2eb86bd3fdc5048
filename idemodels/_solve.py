"""The one front door."""

from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ._checks import is_concrete
from ._equation import Augmented, Equation, cast, dtype_of
from ._method import AbstractMethod, Markov
from ._method.base import Answer, Problem
from ._model import AbstractModel
from ._optax_state import FIELDS, first_of, moments_from_optax
from ._parameters import as_parameters, check_model, check_objective
from ._results import (
    RESULTS,
    State,
    Trajectory,
    fill_past,
    integrated_rate,
    is_okay,
    losses,
)
from ._types import Objective, Path, Theta


def solve(
    model: AbstractModel,
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
    `ts` and `args` do not compile anew; a new objective or a new method does.

    **Arguments:**

    - `model`: an optimizer, such as [`idemodels.Adam`][].
    - `objective`: `objective(theta)`, or `objective(theta, args)` when `args` is given, returning
        a scalar. Pass data as `args`, or as fields of an `eqx.Module`.
    - `theta0`: any pytree. Its floating arrays move, in the widest of their types; every other
        leaf is held fixed. A number alone will do.
    - `ts`: where the path is wanted, in optimizer steps: shape `(T,)`, increasing, from 0, or from
        `state0.s`. Not where the solver steps.
    - `method`: [`idemodels.Markov`][] if `None`.
    - `state0`: where to go on from: `trajectory.state_at(k)`, or
        [`idemodels.state_from_optax`][]. Its theta, where it has one, replaces `theta0`.
    - `save`: `save(s, theta, moments)`, kept in the place of theta, so that the path of a large
        network need not be; a pytree of arrays. Moments are then not kept either.
    - `adjoint`: how to differentiate; any diffrax adjoint. `None` is
        `diffrax.RecursiveCheckpointAdjoint()`, which does reverse mode only; for forward mode pass
        `diffrax.ForwardMode()`.
    - `throw`: whether to raise if the solve fails. Under `vmap` one failing lane raises for all:
        pass `throw=False` and read `.result` lane by lane.

    **Returns:** an [`idemodels.Trajectory`][]. Past a failure its values are NaN.

    **Raises:** `ValueError` for an argument that is not as above, or a gradient that is not finite
    at `theta0`; `RuntimeError` with advice if the solve fails and `throw` is set.
    """
    check_model(model, AbstractModel, "a model such as `idemodels.Adam(0.1)`")
    method = Markov() if method is None else method
    check_method(method)
    if state0 is not None and state0.theta is not None:
        theta0 = state0.theta
    theta, rest = as_parameters(theta0)
    dtype = dtype_of(theta)
    check_objective(objective, eqx.combine(theta, rest), args)
    start = None if state0 is None else state0.s
    ts, valid = as_steps(ts, start, resumed=state0 is not None, dtype=dtype)
    held = Held(objective, rest)
    memory = None if state0 is None else state0.memory
    equation = Equation(cast(model, dtype), held, args)
    problem = _prepare(equation, theta, memory, ts, valid, save)
    if is_concrete(problem.g0):
        check_gradient(problem.g0)
    adjoint = dfx.RecursiveCheckpointAdjoint() if adjoint is None else adjoint
    answer = method.run(problem, adjoint)
    trajectory = _report(problem, answer)
    return _raise(trajectory) if throw else trajectory


class Held(eqx.Module):
    """An objective of the floating arrays alone: the other leaves are put back here."""

    objective: Objective
    rest: PyTree[Any]

    def __call__(self, theta: Theta, *args: Any) -> Any:
        return self.objective(eqx.combine(theta, self.rest), *args)


class _Keep(eqx.Module):
    """What is kept of a state, where the path is wanted."""

    equation: Equation
    save: Callable[..., PyTree[Any]] | None

    def __call__(self, s: Any, y: Augmented) -> PyTree[Any]:
        if self.save is None:
            return {"theta": y.theta, "memory": y.memory}
        theta, moments = self.equation.unpack(s, y)
        theta = eqx.combine(theta, self.equation.objective.rest)  # pyright: ignore
        saved = jax.tree.map(jnp.asarray, self.save(s, theta, moments))
        return {"saved": saved, "loss": self.equation.loss(y.theta)}


@eqx.filter_jit
def _prepare(equation: Equation, theta, memory, ts, valid, save) -> Problem:
    y0 = equation.init(theta)
    if memory is not None:
        like = lambda new, old: jnp.asarray(new, old.dtype).reshape(old.shape)
        y0 = eqx.tree_at(lambda y: y.memory, y0, jax.tree.map(like, memory, y0.memory))
    g0 = equation.gradient(y0.theta, y0.fixed)
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(g0)]))
    valid = valid & finite & equation.model.valid()
    return Problem(equation, y0, g0, ts, _Keep(equation, save), valid)


@eqx.filter_jit
def _finish(problem: Problem, answer: Answer) -> tuple[Any, ...]:
    equation, kept, ts = problem.equation, answer.kept, problem.ts
    rows = (ts <= answer.s) & problem.valid
    kept = fill_past(rows, kept)
    times = integrated_rate(equation.model.alpha, ts)
    if "saved" in kept:
        return times, kept["saved"], kept["loss"], None, answer.y
    path_loss = losses(equation.loss, kept["theta"])
    return times, kept["theta"], path_loss, kept["memory"], answer.y


def _report(problem: Problem, answer: Answer) -> Trajectory:
    times, theta, loss, memory, y = _finish(problem, answer)
    rest = problem.equation.objective.rest  # pyright: ignore[reportFunctionMemberAccess]
    moments = {}
    if memory is not None:
        theta = eqx.combine(theta, rest)
        read = lambda kernel, z: jax.vmap(kernel.read)(z)
        memories = problem.equation.model.memories()
        moments = {name: read(m.kernel, memory[name]) for name, m in memories.items()}
    last = State(answer.s, eqx.combine(y.theta, rest), y.memory)
    return Trajectory(
        problem.ts, times, theta, loss, moments, answer.result, answer.stats, memory, last
    )


def _raise(trajectory: Trajectory) -> Trajectory:
    result = trajectory.result
    if not is_concrete(trajectory):
        return result.error_if(trajectory, ~is_okay(result))
    if not bool(jnp.all(is_okay(result))):
        reached = float(trajectory.last.s)  # pyright: ignore[reportOptionalMemberAccess]
        raise RuntimeError(
            f"The solve stopped at s = {reached:.6g} of {float(trajectory.ts[-1]):.6g}. "
            f"{RESULTS[result]} Pass `throw=False` to get what was computed."
        )
    return trajectory


def check_method(method: Any) -> None:
    """Raises unless `method` is one of ours."""
    if isinstance(method, AbstractMethod):
        return
    hint = ""
    if isinstance(method, dfx.AbstractSolver):
        hint = f" For a diffrax solver write `idemodels.Markov({type(method).__name__}())`."
    raise ValueError(
        f"Argument `method` must be a method such as `idemodels.Markov()`, but is {method!r}.{hint}"
    )


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


def state_from_optax(model: AbstractModel, opt_state: Any) -> State:
    """An optimizer's state as the place to go on from with the equation.

    **Arguments:**

    - `model`: the model whose discrete twin made it.
    - `opt_state`: the state of an optax transformation: of `model.optax()`, of `optax.adam`, or of
        a chain that contains such.

    **Returns:** an [`idemodels.State`][] without parameters: pass those as `theta0`. Its `s` is
    optax's count; `None` where the state has none, and then `ts` may start anywhere.

    **Raises:** `ValueError` if `opt_state` has not the model's moments.
    """
    check_model(model, AbstractModel, "a model such as `idemodels.Adam(0.1)`")
    moments = moments_from_optax(opt_state)
    missing = [name for name in model.memories() if name not in moments]
    if missing:
        wanted = ", ".join(repr(FIELDS[name][0]) for name in missing)
        raise ValueError(
            f"Argument `opt_state` must have the field {wanted} of the twin of "
            f"{type(model).__name__}, but is {type(opt_state).__name__} without it."
        )
    count = first_of(opt_state, "count")
    # the memories of these models have one state each
    memory = {
        name: jax.tree.map(lambda x: x[None] if eqx.is_inexact_array(x) else x, moments[name])
        for name in model.memories()
    }
    return State(count, None, eqx.filter(memory, eqx.is_inexact_array))
