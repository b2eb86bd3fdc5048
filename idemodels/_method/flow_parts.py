"""An interpolating flow through diffrax: exact steps, and stretches of flow between them."""

import dataclasses
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._checks import all_finite
from .._equation import Augmented
from .._flow import FlowEquation
from .._results import RESULTS
from .._types import Flag, Scalar
from .base import Answer, Problem
from .control import Guarded, to_result
from .leg import UNKNOWN, Front, begin, checkpointed, gradients_of_steps, rows
from .norms import group_norm, largest

# Down to this rtol, and up to this order, the method of order 3 needs the fewest gradients.
_LOOSE, _LOW = 1e-5, 2
# Below this rtol the method of order 8 does.
_TIGHT = 3e-8
# The first step, in optimizer steps.
_PACE = 0.5
# Where stability limits the steps, as on a long path, a plain controller has a fourth of them
# rejected: Gustafsson's coefficients (1991), doi:10.1145/210232.210242.
_PROPORTIONAL, _INTEGRAL = 0.4, 0.3
# s of an exact step is told from what rounding makes of it.
_ROUNDING = 1e-6


def run_flow(method: Any, problem: Problem, adjoint: dfx.AbstractAdjoint | None) -> Answer:
    """Solves the problem of a flow with the solver and the tolerances of `Markov`.

    **Raises:** `ValueError` for a `steady_tol`, which flows have not.
    """
    if method.steady_tol is not None:
        raise ValueError(
            "Argument `steady_tol` must be None for an InterpolatingFlow, but is "
            f"{method.steady_tol}."
        )
    front = begin(problem)
    pace, more = jnp.full_like(front.pace, _PACE), {"num_exact": jnp.zeros((), int)}
    front = dataclasses.replace(front, pace=pace, stats=front.stats | more)
    at = 0
    for exact, end in problem.equation.model.parts():
        if exact and end > at:
            front = _exact(problem, front, end - at, end)
        elif end > at:
            front = _flowing(method, problem, front, float(end), adjoint)
        at = end
    front = _flowing(method, problem, front, None, adjoint)
    unknown = front.stats["num_gradients"] < 0
    stats = {**front.stats, "num_gradients": jnp.where(unknown, -1, front.stats["num_gradients"])}
    return Answer(front.kept, front.t, front.y, front.result, stats)


@eqx.filter_jit
def _exact(problem: Problem, front: Front, longest: int, end: int) -> Front:
    """Steps of the optimizer up to the step `end`, and the path through them."""
    equation, ts, start = problem.equation, problem.ts, jax.lax.stop_gradient(front.t)
    todo = jnp.ceil(end - start - _ROUNDING).astype(int)
    todo = jnp.where(front.running & (start < ts[-1]), jnp.clip(todo, 0, longest), 0)

    def march(y):
        def step(y, _):
            y, _ = equation.step(y)
            return y, y

        # all of them, also past the last that is needed: the path between them goes through them
        _, others = jax.lax.scan(step, y, None, length=longest)
        return jax.tree.map(lambda x, more: jnp.concatenate([x[None], more]), y, others)

    def stay(y):
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (longest + 1, *x.shape)), y)

    stack = jax.lax.cond(todo > 0, march, stay, front.y)
    reached = start + todo.astype(ts.dtype)
    width = min(equation.model.order + 1, longest) + 1

    def row(given):
        s, old, here = given

        def made():
            y = equation.clamped(_between(stack, s - start, width))
            return jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), problem.keep(s, y), old)

        return jax.lax.cond(here, made, lambda: old)

    here = (ts > start) & (ts <= reached)
    kept = jax.lax.map(row, (ts, front.kept, here))
    y = jax.tree.map(lambda x: x[todo], stack)
    made = jnp.where(todo > 0, longest, 0)
    stats = {
        **front.stats,
        "num_exact": front.stats["num_exact"] + todo,
        "num_gradients": front.stats["num_gradients"] + made,
    }
    failed = front.running & ~all_finite(y)
    result = RESULTS.where(failed, RESULTS.nonfinite_gradient, front.result)
    return dataclasses.replace(front, t=reached, y=y, kept=kept, result=result, stats=stats)


def _between(stack: Augmented, sigma: Scalar, width: int) -> Augmented:
    """The polynomial through `width` neighbours in a stack of iterates, at `sigma` steps."""
    longest = jax.tree.leaves(stack)[0].shape[0] - 1
    first = jnp.clip(jnp.floor(sigma) - (width - 2) // 2, 0, longest + 1 - width).astype(int)
    at = sigma - first.astype(sigma.dtype)
    nodes = jnp.arange(width, dtype=sigma.dtype)
    # Lagrange's weights; at an iterate they are 1 and 0 exactly
    gaps = jnp.where(jnp.eye(width, dtype=bool), 1.0, nodes[:, None] - nodes[None])
    parts = jnp.where(jnp.eye(width, dtype=bool), 1.0, (at - nodes)[None] / gaps)
    weights = jnp.prod(parts, axis=1)

    def leaf(x):
        near = jax.lax.dynamic_slice_in_dim(x, first, width)
        return jnp.tensordot(weights.astype(x.dtype), near, 1)

    return jax.tree.map(leaf, stack)


@eqx.filter_jit
def _flowing(method: Any, problem: Problem, front: Front, end: float | None, adjoint: Any) -> Front:
    """The flow from where the path is to the step `end`, or to the last of `ts`."""
    equation, ts, q = problem.equation, problem.ts, problem.equation.model.stride
    adjoint = checkpointed(front.y, method.max_steps) if adjoint is None else adjoint
    start, y0 = jax.lax.stop_gradient(front.t), front.y
    last = ts[-1] if end is None else jnp.minimum(jnp.asarray(end, ts.dtype), ts[-1])
    last = jnp.where(front.running, jnp.maximum(last, start), start)
    # the flow passes through every q-th iterate; those between are so many steps past it
    phase = jnp.mod(jnp.floor(jnp.where(ts > start, ts - start, 0.0) + _ROUNDING), q)
    aim, beyond = ts - phase, jnp.mod(jnp.floor(last - start + _ROUNDING), q)
    stop = last - beyond
    inside = jnp.where((ts > start) & (ts <= last), jnp.clip(aim, start, stop), start)
    if q == 1:
        inside = jax.lax.cummax(inside)
        order = None
    else:
        order = jnp.argsort(inside)
        inside = inside[order]
    solver = _solver(method, equation)
    adapts = isinstance(solver, dfx.AbstractAdaptiveSolver | dfx.AbstractImplicitSolver)
    controller = _controller(method, problem, y0, last) if adapts else dfx.ConstantStepSize()
    solution = dfx.diffeqsolve(
        dfx.ODETerm(equation),
        solver,
        start,
        stop,
        jnp.minimum(front.pace, jnp.maximum(stop - start, 0.0)) if adapts else _whole(front.pace),
        y0,
        saveat=dfx.SaveAt(
            subs=[
                dfx.SubSaveAt(ts=inside, fn=lambda t, y, args: _phases(problem, t, y)),
                dfx.SubSaveAt(t1=True),
            ],
            controller_state=True,
        ),
        stepsize_controller=controller,
        adjoint=adjoint,
        event=method.event,
        max_steps=method.max_steps,
        throw=False,
    )
    assert solution.ts is not None
    assert solution.ys is not None
    reached = solution.ts[1][-1]
    y = jax.tree.map(lambda y: y[-1], solution.ys[1])
    arrived = reached >= stop
    y = _ahead(equation, y, jnp.where(arrived, beyond, 0.0))
    reached = jnp.where(arrived, last, reached)
    saved = _chosen(solution.ys[0], order, phase, q)
    new = (ts > start) & (ts <= last) & ((aim <= solution.ts[1][-1]) | arrived)
    kept = jax.tree.map(lambda a, b: rows(new, jnp.asarray(a, b.dtype), b), saved, front.kept)
    ran = stop > start
    state: Any = solution.controller_state
    result = to_result(state.reason if adapts else jnp.zeros((), int), solution.result)
    result = RESULTS.where(ran, result, front.result)
    steps = solution.stats["num_steps"]
    made = gradients_of_steps(solver, steps, jnp.where(ran, 1, 0))
    made = jnp.where(ran & (made < 0), UNKNOWN, made * equation.model.gradients)
    made = made + (jnp.where(ran, 1, 0) if adapts else 0)  # the units'
    if q > 1:
        made = made + (q - 1) * (jnp.sum(new) + 1)
    stats = {
        **front.stats,
        "num_steps": front.stats["num_steps"] + steps,
        "num_rejected": front.stats["num_rejected"] + solution.stats["num_rejected_steps"],
        "num_gradients": front.stats["num_gradients"] + made,
    }
    return dataclasses.replace(front, t=reached, y=y, kept=kept, result=result, stats=stats)


def _solver(method: Any, equation: FlowEquation) -> dfx.AbstractSolver:
    if method.solver is not None:
        return method.solver
    if method.rtol < _TIGHT:
        return dfx.Dopri8()
    if method.rtol >= _LOOSE and equation.model.order <= _LOW:
        return dfx.Bosh3()
    return dfx.Tsit5()


def _whole(x: Scalar) -> Scalar:
    """The step of a solver that does not adapt: one optimizer step."""
    return jnp.ones_like(x)


def _controller(method: Any, problem: Problem, y0: Augmented, end: Scalar) -> Guarded:
    y0 = jax.lax.stop_gradient(y0)
    return Guarded(
        rtol=method.rtol,
        atol=method.atol,
        unit=jax.lax.stop_gradient(_units(problem.equation, y0)),
        limit=1e8 * (1.0 + largest(problem.y0.theta)),
        end=end,
        patience=None,
        norm=group_norm,
        negative=_Never(),
        proportional=_PROPORTIONAL,
        integral=_INTEGRAL,
    )


class _Never(eqx.Module):
    """No memory is reported as negative: they are clamped."""

    def __call__(self, y: Augmented) -> Flag:
        return jnp.zeros((), bool)


def _units(equation: FlowEquation, y: Augmented) -> Augmented:
    """What counts as one: 1 for theta; for a leaf of the state, its size, or after a step."""
    after, _ = equation.step(y)

    def size(before, after):
        rms = lambda x: jnp.sqrt(jnp.mean(x * x))
        larger = jnp.maximum(rms(before), rms(after))
        return jnp.where((larger > 0) & jnp.isfinite(larger), larger, 1.0).astype(before.dtype)

    ones = jax.tree.map(lambda x: jnp.ones((), x.dtype), y.theta)
    return Augmented(ones, jax.tree.map(size, y.memory, after.memory), y.fixed)


def _phases(problem: Problem, t: Scalar, y: Augmented) -> PyTree[Array]:
    """What is kept at t and, with a stride, as many steps of the optimizer further."""
    equation, q = problem.equation, problem.equation.model.stride
    y = equation.clamped(y)
    keep = lambda s, y: jax.tree.map(jnp.asarray, problem.keep(s, y))
    if q == 1:
        return keep(t, y)

    def one(carry, _):
        s, y = carry
        return (s + 1.0, equation.step(y)[0]), keep(s, y)

    return jax.lax.scan(one, (t, y), None, length=q)[1]


def _chosen(saved: PyTree[Array], order: Array | None, phase: Array, q: int) -> PyTree[Array]:
    """Of each row the phase that is wanted, in the order of `ts`."""
    if order is None:
        return saved
    back = jnp.argsort(order)
    lines = jnp.arange(back.size)
    return jax.tree.map(lambda x: x[back][lines, phase.astype(int)], saved)


def _ahead(equation: FlowEquation, y: Augmented, count: Scalar) -> Augmented:
    """The state after so many steps of the optimizer, less than the stride."""
    y = equation.clamped(y)
    for k in range(equation.model.stride - 1):
        y = jax.lax.cond(k < count, lambda y: equation.step(y)[0], lambda y: y, y)
    return y
