"""The augmented ODE through diffrax."""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp

from .._checks import is_concrete
from .._equation import Augmented, LogTime
from .._results import RESULTS
from .base import AbstractMethod, Answer, Problem
from .control import NOT_STOPPED, STIFF, Guarded, group_norm, largest, to_result, units
from .rodas5p import Rodas5P, gradients_per_step

# A linear solve in all states, and a Hessian, for every step: for few parameters only.
_IMPLICIT_PARAMETERS = 128
# Attempts after which, or expected attempts in all beyond which, a leg counts as stiff.
_PATIENCE = 4000
# Where g = 0 the direction turns over within eps of it. A stiff leg that does not resolve that layer
# chatters across it for ever, within its tolerance but for tens of thousands of steps.
_STIFF_RTOL = 1e-10
# Below this rtol the method of order 8 needs fewer gradients than the one of order 5.
_TIGHT = 3e-8


class Markov(AbstractMethod):
    """Integrates the augmented equation, parameters beside memories, with diffrax.

    By default in up to three legs, each a `diffrax.diffeqsolve`: a causal reading starts in
    $\\ln s$ up to s = 1, where its velocity is singular; then an explicit Runge-Kutta method (Tsit5,
    or Dopri8 where `rtol` < 3e-8); and where that would take thousands of steps because the path
    has become stiff (past convergence, mostly), a linearly implicit one (Rodas5P) to the end, if
    there are at most 128 parameters. `stats["implicit_from"]` tells from where.

    **Arguments:**

    - `solver`: any diffrax solver, for the whole path after a causal start; `None` for the legs
        above. One without an error estimate takes steps of one optimizer step each: with
        `diffrax.Euler()` the scheme of the papers' own simulations.
    - `rtol`, `atol`: tolerances for the error of a step, in theta and in each memory, whichever is
        worse. `atol` is in units of theta, and of each memory's feature at the first gradient.
        Below about 1e-6 float32 cannot follow.
    - `max_steps`: solver steps, rejected ones included, for each leg.
    - `event`: a `diffrax.Event` that ends the path; its condition is called with `(s, y, args)`,
        where `y.theta` and `y.memory` are the state.

    **Raises:** `ValueError` for a tolerance that is not positive, `max_steps` below 1, a `solver`
    that is not diffrax's.
    """

    solver: dfx.AbstractSolver | None = None
    rtol: float = eqx.field(default=1e-6, kw_only=True)
    atol: float = eqx.field(default=1e-9, kw_only=True)
    max_steps: int = eqx.field(default=100_000, kw_only=True)
    event: dfx.Event | None = eqx.field(default=None, kw_only=True)

    def __check_init__(self):
        if self.solver is not None and not isinstance(self.solver, dfx.AbstractSolver):
            raise ValueError(
                f"Argument `solver` must be a diffrax solver or None, but is {self.solver!r}. "
                "Write `diffrax.Tsit5()`, with its parentheses."
            )
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            if not isinstance(value, float | int) or not 0 < value < float("inf"):
                raise ValueError(f"Argument `{name}` must be a positive number, but is {value!r}.")
        if not isinstance(self.max_steps, int) or self.max_steps < 1:
            raise ValueError(
                f"Argument `max_steps` must be a positive integer, but is {self.max_steps!r}."
            )

    def run(self, problem, adjoint):
        front = _begin(problem)
        if problem.equation.model.singular_start:
            front = _start_leg(self, problem, front, adjoint)
        front = _main_leg(self, self._main_solver(), problem, front, adjoint)
        # Where the outcome is known now the third leg is not even compiled, which halves the time
        # to the first answer; in a traced call it is there, and runs for no steps.
        if self._hands_over(problem) and not (is_concrete(front) and not bool(front.stiff)):
            front = _implicit_leg(self, problem, front, adjoint)
        return Answer(front.kept, front.s, front.y, front.result, front.stats)

    def _main_solver(self) -> dfx.AbstractSolver:
        if self.solver is not None:
            return self.solver
        return dfx.Dopri8() if self.rtol < _TIGHT else dfx.Tsit5()

    def _hands_over(self, problem: Problem) -> bool:
        return self.solver is None and _size(problem.y0.theta) <= _IMPLICIT_PARAMETERS


class _Front(eqx.Module):
    """How far the path has come."""

    s: Any
    y: Augmented
    kept: Any
    result: Any
    stiff: Any
    pace: Any  # the last mean step
    stats: dict[str, Any]


@eqx.filter_jit
def _begin(problem: Problem) -> _Front:
    ts, y0 = problem.ts, problem.y0
    first = problem.keep(ts[0], y0)

    def buffer(x):
        x = jnp.asarray(x)
        empty = jnp.nan if jnp.issubdtype(x.dtype, jnp.inexact) else 0
        return jnp.full((ts.size, *x.shape), empty, x.dtype).at[0].set(x)

    result = RESULTS.where(problem.valid, RESULTS.successful, RESULTS.invalid_argument)
    stats = {
        "num_steps": jnp.zeros((), int),
        "num_rejected": jnp.zeros((), int),
        "num_gradients": jnp.ones((), int),  # the one at the start, for units and checks
        "implicit_from": jnp.asarray(jnp.inf, ts.dtype),
    }
    pace = jnp.minimum(jnp.asarray(0.1, ts.dtype), ts[-1] - ts[0])
    kept = jax.tree.map(buffer, first)
    return _Front(ts[0], y0, kept, result, jnp.zeros((), bool), pace, stats)


@eqx.filter_jit
def _start_leg(method: Markov, problem: Problem, front: _Front, adjoint: Any) -> _Front:
    """From s = 0 to s = 1, or less, in ln s."""
    log_time = LogTime(problem.equation)
    # so early that the way made before, of the order of its root, is below the tolerance
    first = jnp.maximum(front.s, jnp.asarray((1e-3 * method.rtol) ** 2, front.s.dtype))
    last = jnp.where(_running(front), jnp.clip(1.0, first, problem.ts[-1]), first)
    fresh = log_time.init(front.y, problem.g0)
    resumed = eqx.tree_at(
        lambda y: y.memory, fresh, jax.tree.map(lambda z: z / first, front.y.memory)
    )
    y0 = jax.tree.map(lambda a, b: jnp.where(front.s > 0, a, b), resumed, fresh)
    solver = dfx.Dopri8() if method.rtol < _TIGHT else dfx.Tsit5()
    front = eqx.tree_at(lambda f: (f.y, f.pace), front, (y0, jnp.ones_like(front.pace)))
    ends = jnp.log(first), jnp.log(last)
    back = log_time.at
    front = _leg(method, solver, problem, front, adjoint, log_time, back, jnp.log, ends, None)
    s, y = back(front.s, front.y)
    s = jnp.where(jnp.exp(ends[1]) == s, last, s)  # undo the rounding of exp(log)
    pace = jnp.minimum(jnp.asarray(0.1, s.dtype), problem.ts[-1] - s)
    return eqx.tree_at(lambda f: (f.s, f.y, f.pace), front, (s, y, jnp.maximum(pace, 0.0)))


@eqx.filter_jit
def _main_leg(method: Markov, solver: Any, problem: Problem, front: _Front, adjoint: Any) -> _Front:
    """From where the path is to its end, with the explicit method or the user's."""
    patience = min(_PATIENCE, method.max_steps) if method._hands_over(problem) else None
    end = jnp.where(_running(front), problem.ts[-1], front.s)
    ends = front.s, end
    equation = problem.equation
    return _leg(method, solver, problem, front, adjoint, equation, _same, _identity, ends, patience)


@eqx.filter_jit
def _implicit_leg(method: Markov, problem: Problem, front: _Front, adjoint: Any) -> _Front:
    """From where the path became stiff to its end."""
    end = jnp.where(front.stiff, problem.ts[-1], front.s)
    smallest = 100 * jnp.finfo(front.s.dtype).eps * jnp.maximum(front.s, 1.0)
    from_ = jnp.where(front.stiff, front.s, jnp.inf)
    pace = jnp.maximum(front.pace, smallest)
    front = eqx.tree_at(lambda f: (f.pace, f.stats["implicit_from"]), front, (pace, from_))
    result = RESULTS.where(front.stiff, RESULTS.successful, front.result)
    front = eqx.tree_at(lambda f: f.result, front, result)
    ends = front.s, end
    equation = problem.equation
    return _leg(method, Rodas5P(), problem, front, adjoint, equation, _same, _identity, ends, None)


def _leg(method, solver, problem, front, adjoint, field, back, forth, ends, patience) -> _Front:
    """One call of diffrax. `back` and `forth` lead to s and from it; `ends` are in the leg's time."""
    t0, t1 = ends
    memories = problem.equation.model.memories()
    first = largest(problem.y0.theta)
    rtol, atol = method.rtol, method.atol
    if isinstance(solver, Rodas5P) and method.solver is None:
        floor = 10 * float(jnp.finfo(t0.dtype).eps)
        rtol, atol = min(rtol, max(_STIFF_RTOL, floor)), min(atol, 1e-2 * _STIFF_RTOL)
    controller = Guarded(
        dfx.PIDController(rtol, atol, norm=group_norm),
        units(problem.y0, problem.g0, memories, atol),
        1e8 * (1.0 + first),
        t1,
        patience,
    )
    if not isinstance(solver, dfx.AbstractAdaptiveSolver | dfx.AbstractImplicitSolver):
        controller = dfx.ConstantStepSize()
        front = eqx.tree_at(lambda f: f.pace, front, jnp.ones_like(front.pace))
    inside = jnp.clip(forth(jnp.clip(problem.ts, back(t0, front.y)[0])), t0, t1)
    solution = dfx.diffeqsolve(
        dfx.ODETerm(field),
        solver,
        t0,
        t1,
        front.pace,
        front.y,
        saveat=dfx.SaveAt(
            subs=[
                dfx.SubSaveAt(ts=inside, fn=lambda t, y, args: problem.keep(*back(t, y))),
                dfx.SubSaveAt(t1=True),
            ],
            controller_state=True,
        ),
        stepsize_controller=controller,
        adjoint=adjoint,
        event=_translate(method.event, back),
        max_steps=method.max_steps,
        throw=False,
    )
    end = solution.ts[1][-1]
    y = jax.tree.map(lambda y: y[-1], solution.ys[1])
    new = (inside > t0) & (inside <= end) & (forth(problem.ts) <= t1) & (forth(problem.ts) > t0)
    choose = lambda new_row, old: jnp.where(
        new.reshape((-1,) + (1,) * (old.ndim - 1)), new_row, old
    )
    kept = jax.tree.map(choose, solution.ys[0], front.kept)
    state = solution.controller_state
    reason = getattr(state, "reason", jnp.zeros((), int))
    pace = getattr(state, "progress", front.pace)
    result = to_result(reason, reason != NOT_STOPPED, solution.result)
    ran = t1 > t0
    result = RESULTS.where(ran, result, front.result)
    steps = solution.stats["num_steps"]
    stats = dict(front.stats)
    stats["num_steps"] = stats["num_steps"] + steps
    stats["num_rejected"] = stats["num_rejected"] + solution.stats["num_rejected_steps"]
    stats["num_gradients"] = stats["num_gradients"] + _gradients(solver, problem, steps, ran)
    return _Front(end, y, kept, result, ran & (reason == STIFF), pace, stats)


def _running(front: _Front) -> Any:
    return front.result == RESULTS.successful


def _same(s: Any, y: Augmented) -> tuple[Any, Augmented]:
    return s, y


def _identity(s: Any) -> Any:
    return s


def _size(tree: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


def _gradients(solver: Any, problem: Problem, steps: Any, ran: Any) -> Any:
    """The gradient evaluations of a leg, from what each step of its solver makes."""
    if isinstance(solver, Rodas5P):
        return steps * gradients_per_step(_size(problem.y0.theta))
    if isinstance(solver, dfx.AbstractERK):
        stages = solver.tableau.num_stages
        if solver.tableau.fsal:
            return jnp.where(ran, steps * (stages - 1) + 1, 0)
        return steps * stages
    if isinstance(solver, dfx.Euler):
        return steps
    return -(2**30) * jnp.asarray(ran, int)


def _translate(event: dfx.Event | None, back: Any) -> dfx.Event | None:
    """The user's event, with conditions on s and the original state."""
    if event is None or back is _same:
        return event

    def translate(condition):
        return lambda t, y, args, **kwargs: condition(*back(t, y), args, **kwargs)

    return eqx.tree_at(
        lambda e: e.cond_fn, event, jax.tree.map(translate, event.cond_fn, is_leaf=callable)
    )
