"""An interpolating flow through diffrax: exact steps, and stretches of flow between them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._checks import all_finite, is_concrete
from .._equation import Augmented
from .._flow import FlowEquation, Paces, plan_of
from .._programs import program
from .._results import RESULTS
from .._types import Flag, Scalar
from .base import Answer, Problem
from .clock import pace
from .control import Guarded, to_result
from .leg import UNKNOWN, Front, begin, checkpointed, gradients_of_steps, rows
from .norms import group_norm, largest
from .replay import Replay
from .unchecked import diffeqsolve

# Down to this rtol, and up to this order, the method of order 3 needs the fewest gradients.
_LOOSE, _LOW = 1e-5, 2
# Below this rtol the method of order 8 does.
_TIGHT = 3e-8
# The first step, in optimizer steps.
_PACE = 0.5
# Where stability limits the steps, as on a long path, a plain controller has a fourth of them
# rejected: Gustafsson's coefficients (1991), doi:10.1145/210232.210242.
_PROPORTIONAL, _INTEGRAL = 0.4, 0.3
# Exact steps are made in stretches of at most so many, whose states are kept at once.
_LONGEST = 32
# The fewest checkpoints of a stretch.
_FEWEST = 16
# s of an exact step is told from what rounding makes of it.
_ROUNDING = 1e-6


def run_flow(method: Any, problem: Problem, adjoint: dfx.AbstractAdjoint | None) -> Answer:
    """Solves the problem of a flow with the solver and the tolerances of `Markov`.

    **Raises:** `ValueError` for a `steady_tol`, `max_step` or `breakpoints`, which flows have not.
    """
    if method.steady_tol not in (None, "rtol"):
        raise ValueError(
            "Argument `steady_tol` must be 'rtol' or None for an InterpolatingFlow, but is "
            f"{method.steady_tol}. Leave it out: a flow is not held."
        )
    if method.max_step is not None:
        raise ValueError(
            f"Argument `max_step` must be None for an InterpolatingFlow, but is {method.max_step}."
        )
    if method.breakpoints:
        raise ValueError(
            "Argument `breakpoints` must be empty for an InterpolatingFlow, but is "
            f"{method.breakpoints}. Give them to the flow, as `kinks`."
        )
    equation, ts = problem.equation, problem.ts
    model, plan = equation.model, plan_of(equation, problem.y0, ts[0], ts)
    front = begin(problem)
    if is_concrete((problem, front)):
        adjoint = adjoint or dfx.ForwardMode()  # nothing is differentiated: plain loops
    pace, more = jnp.full_like(front.pace, _PACE), {"num_exact": jnp.zeros((), int)}
    front = dataclasses.replace(front, pace=pace, stats=front.stats | more)
    parts = model.parts(plan.kinks)
    if is_concrete(ts):  # what is behind, or too far ahead, is nothing to compile for
        ahead = float(ts[-1]) + model.gradients
        parts = [(a, b) for a, b in parts if b > float(ts[0]) and a < ahead]
    breaks = jnp.asarray(_padded(plan.kinks), ts.dtype)
    if model.exact_steps:
        end = jnp.asarray(model.exact_steps, ts.dtype)
        front = _exact(problem, front, model.exact_steps, end, breaks)
    if not parts:
        front = _flowing(method, problem, front, ts[-1], plan.paces, adjoint).made()
    else:
        longest = min(_LONGEST, max(b - a for a, b in parts))
        longest = 2 ** (longest - 1).bit_length()
        stretches = [(x, min(x + longest, b)) for a, b in parts for x in range(a, b, longest)]
        begins, ends = (jnp.asarray(_padded(x), ts.dtype) for x in zip(*stretches, strict=True))
        given = method, problem, front, longest, begins, ends, breaks
        front = _crossing(*given, plan.paces, adjoint).made()
    unknown = front.stats["num_gradients"] < 0
    stats = {**front.stats, "num_gradients": jnp.where(unknown, -1, front.stats["num_gradients"])}
    return Answer(front.kept, front.t, front.y, front.result, stats)


def _padded(steps: Sequence[int]) -> np.ndarray:
    """Steps, and infinity up to a length of 0 or a power of 2: few lengths, few programs."""
    size = 2 ** len(steps).bit_length() if steps else 0
    return np.pad(np.asarray(steps, float), (0, size - len(steps)), constant_values=np.inf)


@program
def _crossing(
    method: Any,
    problem: Problem,
    front: Front,
    longest: int,
    begins: Array,
    ends: Array,
    breaks: Array,
    paces: Paces | None,
    adjoint: dfx.AbstractAdjoint | None,
) -> Front:
    """Stretches of flow, to each of `begins`, and of at most `longest` exact steps after them.

    A program for one of them serves all, in a loop. The last of `begins` is infinite.
    """
    ts = problem.ts
    adjoint = _shared(front.y, method, begins.size) if adjoint is None else adjoint

    def flow(front, end):
        return _flowing(method, problem, front, end, paces, adjoint)

    def one(front, given):
        begin, end = given
        todo = front.running & (jnp.minimum(begin, ts[-1]) > front.t)
        before = front
        front = jax.lax.cond(todo, flow, lambda front, end: front, front, begin)
        front = _exact(problem, front, longest, end, breaks)
        return jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), front, before), None

    return jax.lax.scan(one, front, (begins, ends))[0]


def _shared(y: Augmented, method: Any, stretches: int) -> dfx.AbstractAdjoint:
    """The adjoint for each of some stretches, with its part of the checkpoints."""
    whole = checkpointed(y, method.max_steps)
    return Replay(max(_FEWEST, whole.checkpoints // stretches))


@program
def _exact(problem: Problem, front: Front, longest: int, end: Scalar, breaks: Array) -> Front:
    """At most `longest` steps of the optimizer up to `end`, and the path through them.

    - `breaks`: steps at which the path is not smooth, increasing.
    """
    equation, ts, start = problem.equation, problem.ts, jax.lax.stop_gradient(front.t)
    count = jnp.clip(jnp.ceil(end - start - _ROUNDING), 0, longest)
    count = jnp.where(front.running & (start < ts[-1]), count, 0)
    todo = jnp.minimum(count, jnp.ceil(ts[-1] - start - _ROUNDING))

    def march(y):
        def step(y, k):
            y = jax.lax.cond(k < count, lambda y: equation.step(y)[0], lambda y: y, y)
            return y, y

        y = equation.settled(start, y)
        # also past the last that is wanted: the path between them goes through them
        _, others = jax.lax.scan(step, y, jnp.arange(longest, dtype=ts.dtype))
        return jax.tree.map(lambda x, more: jnp.concatenate([x[None], more]), y, others)

    def stay(y):
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (longest + 1, *x.shape)), y)

    stack = jax.lax.cond(count > 0, march, stay, front.y)
    reached = start + todo
    width = min(equation.model.order + 1, longest) + 1

    def row(given):
        s, old, here = given

        def made():
            after = jnp.searchsorted(breaks, s, side="right")
            ends = jnp.concatenate([jnp.full(1, -jnp.inf, s.dtype), breaks, jnp.full(1, jnp.inf)])
            least = jnp.maximum(ends[after] - start, 0.0)
            most = jnp.minimum(ends[after + 1] - start, count)
            y = equation.clamped(_between(stack, s - start, width, least, most))
            return jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), problem.keep(s, y), old)

        return jax.lax.cond(here, made, lambda: old)

    here = (ts > start) & (ts <= reached)
    kept = jax.lax.map(row, (ts, front.kept, here))
    todo = todo.astype(int)
    y = jax.tree.map(lambda x: x[todo], stack)
    stats = {
        **front.stats,
        "num_exact": front.stats["num_exact"] + todo,
        "num_gradients": front.stats["num_gradients"] + count.astype(int),
    }
    failed = front.running & ~all_finite(y)
    result = RESULTS.where(failed, RESULTS.nonfinite_gradient, front.result)
    return dataclasses.replace(front, t=reached, y=y, kept=kept, result=result, stats=stats)


def _between(stack: Augmented, sigma: Scalar, width: int, least: Any, most: Any) -> Augmented:
    """The polynomial through at most `width` neighbours in a stack of iterates, at `sigma` steps.

    - `least`, `most`: between which iterates the path is smooth.
    """
    longest = jax.tree.leaves(stack)[0].shape[0] - 1
    below = jnp.floor(sigma)
    least, most = jnp.minimum(least, below), jnp.maximum(most, jnp.minimum(below + 1, longest))
    first = jnp.clip(below - (width - 2) // 2, least, jnp.maximum(most + 1 - width, least))
    first = jnp.clip(first, 0, longest + 1 - width)
    nodes = first + jnp.arange(width, dtype=sigma.dtype)
    used = (nodes >= least) & (nodes <= most)
    # Lagrange's weights; at an iterate they are 1 and 0 exactly
    others = used[None] & ~jnp.eye(width, dtype=bool)
    gaps = jnp.where(others, nodes[:, None] - nodes[None], 1.0)
    parts = jnp.where(others, (sigma - nodes)[None] / gaps, 1.0)
    weights = jnp.where(used, jnp.prod(parts, axis=1), 0.0)

    def leaf(x):
        near = jax.lax.dynamic_slice_in_dim(x, first.astype(int), width)
        return jnp.tensordot(weights.astype(x.dtype), near, 1)

    return jax.tree.map(leaf, stack)


@program
def _flowing(
    method: Any,
    problem: Problem,
    front: Front,
    end: Scalar,
    paces: Paces | None,
    adjoint: dfx.AbstractAdjoint | None,
) -> Front:
    """The flow from where the path is to the step `end`, or to the last of `ts`."""
    equation, ts, q = problem.equation, problem.ts, problem.equation.model.stride
    adjoint = checkpointed(front.y, method.max_steps) if adjoint is None else adjoint
    start = jax.lax.stop_gradient(front.t)
    y0, last = equation.settled(start, front.y), jnp.minimum(end, ts[-1])
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
    controller = dfx.ConstantStepSize()
    if adapts:
        controller = _controller(method, problem, y0, last)
        if paces is not None:
            given = controller.rtol, controller.atol, controller.norm
            controller = Paced(*given, controller, paces)
    solution = diffeqsolve(
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
        expected=pace,
        by_range=True,
        origin=jax.lax.stop_gradient(problem.y0.theta),
        proportional=_PROPORTIONAL,
        integral=_INTEGRAL,
    )


class Paced(dfx.AbstractAdaptiveStepSizeController):
    """A controller none of whose steps is longer than those of `paces`.

    - `rtol`, `atol`, `norm`: those of `controller`, for diffrax's implicit solvers.
    """

    rtol: Any
    atol: Any
    norm: Callable[[PyTree[Array]], Scalar] = eqx.field(static=True)
    controller: Guarded
    paces: Paces

    def wrap(self, direction):
        del direction  # forwards only
        return self

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        first, state = self.controller.init(terms, t0, t1, y0, dt0, args, func, error_order)
        return self._bounded(t0, first), state

    def adapt_step_size(
        self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state
    ):
        keep, next_t0, next_t1, made_jump, state, result = self.controller.adapt_step_size(
            t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state
        )
        return keep, next_t0, self._bounded(next_t0, next_t1), made_jump, state, result

    def _bounded(self, t0: Any, t1: Any) -> Any:
        return jnp.minimum(t1, t0 + self.paces(t0))


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
