"""One stretch of a path, taken up where the stretch before it ended.

There is one stepping loop, diffrax's: `diffeqsolve` has the saving, the events and the adjoints,
and a loop of our own over `solver.step` would have to have them again. What such a loop permits and
a plain call does not, to stop after so many steps and to go on without loss, needs three states
from one call to the next, the solver's, the controller's and the step that it proposed: a `Carry`.
"""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from .._checks import is_concrete
from .._equation import Augmented
from .._programs import program
from .._results import RESULTS
from .._types import Count, Flag, Scalar
from .base import Problem
from .clock import AbstractClock
from .control import NOT_STOPPED, STEADY, STIFF, WARM_UP, BelowZero, Guarded, to_result
from .exponential_multistep import ExponentialMultistep
from .norms import group_norm, largest, units
from .quasi_newton_bdf import QuasiNewtonBDF
from .replay import Replay
from .reporting import AbstractReporting
from .rodas5p import Rodas5P, gradients_per_step
from .steady import Steady
from .unchecked import diffeqsolve
from .with_tangent import WithTangent, is_differentiated, looped_for

# Extrapolation to ten times the distance would magnify the rounding of five gradients 1e5 times.
_GROWTH = 3.0
# Checkpoints: bytes for all of them, how few and how many there are, and how many states of the
# equation one of them holds with the past of a multistep method.
_ROOM, _FEWEST, _MOST, _STATES = 2**27, 16, 4096, 4
# What a step reports is the error of the cruder one of two formulas, and errors cancel. Measured on
# ten problems at rtol 1e-3 to 1e-6: .4 to 3 % remain of the multistep method's, 4 to 17 % of a
# Runge-Kutta pair's.
_MULTISTEP, _IMPLICIT, _OTHERS = 0.05, 1.0, 0.3
# So many attempts without a solution may have met a kink, where errors are larger than what is
# reported.
_UNSOLVED, _DOUBT = 3, 2.0
# Counts a leg whose solver does not tell how often it calls the right-hand side.
UNKNOWN = -(2**30)


class Front(eqx.Module):
    """How far a path has come, in the time of the leg that runs."""

    t: Scalar
    y: Augmented
    kept: PyTree[Array]
    result: Any
    stiff: Flag
    pace: Scalar  # the step to begin with
    stats: dict[str, Any]

    @property
    def running(self) -> Bool[Array, "*lanes"]:
        return self.result == RESULTS.successful

    def made(self) -> "Front":
        """The same, as it leaves a program: nothing but the path has a derivative."""
        return self if is_concrete(self) else _made(self)


@program
def _made(front: Front) -> Front:
    path = lambda front: (front.t, front.y, front.kept)
    return eqx.tree_at(path, jax.tree.map(_constant, front), path(front))


def _constant(x: Any) -> Any:
    if not eqx.is_array(x) or eqx.is_inexact_array(x):
        return jax.lax.stop_gradient(x)
    return x | jnp.zeros((), x.dtype)  # for JAX the output of a `custom_vjp` is differentiated


class Carry(eqx.Module):
    """What a leg needs to go on after a pause.

    - `solver`, `controller`: their states; `None` before the first step.
    - `pace`: the step that was proposed.
    - `steps`: how many it has made.
    """

    solver: Any
    controller: Any
    pace: Scalar
    steps: Count


class Leg(eqx.Module):
    """How a stretch is integrated, and how far.

    - `end`: in the clock's time; nothing happens if the path is there already.
    - `steady_tol`: `None` does not expect that the path comes to rest.
    - `looks`: whether the leg looks itself whether it has.
    - `patience`, `warm_up`, `strict`: see `Guarded` and `units`.
    - `longest`: optimizer steps that a step may be long; `None` does not say.
    - `short`, `price`, `spent`, `by_range`: see `Guarded`.
    - `exact`: the part of theta's range that its error may be for the path to count as converged;
        `None` does not say.
    - `tangent`: the relative error of a tangent, where the path may be differentiated; or `None`.
    """

    clock: AbstractClock
    solver: dfx.AbstractSolver
    end: Scalar
    rtol: Any
    atol: Any
    max_steps: int
    strict: bool
    patience: Any
    event: dfx.Event | None
    steady_tol: Any
    looks: bool = True
    warm_up: int = WARM_UP
    longest: float | None = None
    short: float | None = None
    price: float | None = None
    spent: Any = 0
    by_range: bool = False
    exact: Any = None
    tangent: Any = None

    def run(self, problem: Problem, front: Front, adjoint: dfx.AbstractAdjoint | None) -> Front:
        """The path, as far as this leg leads."""
        adjoint = checkpointed(front.y, self.max_steps) if adjoint is None else adjoint
        carry = Carry(None, None, front.pace, jnp.zeros((), int))
        return self._advanced(problem, front, carry, adjoint, self.max_steps)[0]

    def begin(self, problem: Problem, front: Front) -> "Carry":
        """What `advance` begins with."""
        terms, start = dfx.ODETerm(self.clock.field()), front.t
        solver = self._solver(problem)
        pace, order = self._first(front.pace), solver.error_order(terms)
        first, state = self._controller(problem).init(
            terms, start, self.end, front.y, pace, None, solver.func, order
        )
        first = jnp.minimum(first, self.end)
        made = solver.init(terms, start, first, front.y, None)
        return Carry(made, state, pace, jnp.zeros((), int))

    def advance(
        self, problem: Problem, front: Front, carry: "Carry", steps: int
    ) -> tuple[Front, "Carry"]:
        """At most so many solver steps further; not to be differentiated.

        The path is the one that `run` makes, but that `max_steps` may be passed by less than
        `steps`. It is over when `front.result` is another than successful, or `front.t` is `end`.
        """
        return self._advanced(problem, front, carry, dfx.ForwardMode(), steps)

    def _advanced(
        self, problem: Problem, front: Front, carry: "Carry", adjoint: Any, steps: int
    ) -> tuple[Front, "Carry"]:
        # Times carry no derivative; but that where the leg before ended is an output of its loop,
        # and would be differentiated in reverse: to NaN where this one makes no step.
        start, pace = jax.lax.stop_gradient((front.t, carry.pace))
        ts = self.clock.of(problem.ts)
        end = jax.lax.stop_gradient(jnp.where(front.running, self.end, start))
        # the end is not interpolated: in a batch some lane is always there
        inside = jnp.where(ts < end, jnp.maximum(ts, start), start)
        inside = jax.lax.cummax(inside)
        controller = self._controller(problem)
        solution = diffeqsolve(
            dfx.ODETerm(self.clock.field()),
            self._solver(problem, adjoint),
            start,
            end,
            self._first(pace),
            front.y,
            saveat=dfx.SaveAt(
                subs=[
                    dfx.SubSaveAt(ts=inside, fn=self._keep(problem)),
                    dfx.SubSaveAt(t1=True),
                ],
                solver_state=True,
                controller_state=True,
            ),
            stepsize_controller=controller,
            adjoint=adjoint,
            event=self._event(),
            max_steps=steps,
            solver_state=carry.solver,
            controller_state=carry.controller,
        )
        assert solution.ts is not None
        assert solution.ys is not None
        reached = solution.ts[1][-1]
        y = jax.tree.map(lambda y: y[-1], solution.ys[1])
        here = (end == ts[-1]) & (reached == end) & (end > start)
        y = _arrived(self.clock.field(), ts[-1], y, here)
        new = (ts > start) & (ts <= reached) & (ts < end)
        kept = jax.tree.map(lambda a, b: rows(new, a, b), solution.ys[0], front.kept)
        new = (ts > start) & (ts == end) & (ts == reached)
        last = self._keep(problem)(reached, y, None)
        kept = jax.tree.map(lambda a, b: rows(new, jnp.asarray(a)[None], b), last, kept)
        state: Any = solution.controller_state
        reason = state.reason if self._adapts else jnp.full((), NOT_STOPPED)
        ran = end > start
        result = to_result(reason, solution.result)
        stats = self._count(front.stats, problem, solution, ran, ran & (carry.steps == 0))
        made = carry.steps + solution.stats["num_steps"]
        paused = (result == RESULTS.max_steps_reached) & (made < self.max_steps)
        result = RESULTS.where(paused, RESULTS.successful, result)
        front = Front(
            reached,
            y,
            kept,
            RESULTS.where(ran, result, front.result),
            jnp.where(ran, reason == STIFF, front.stiff),
            state.progress if self._adapts else front.pace,
            stats,
        )
        if isinstance(controller, Guarded):
            pace, state = state.proposed, controller.forget_counts(state)
        return front, Carry(solution.solver_state, state, pace, made)

    def _solver(self, problem: Problem, adjoint: Any = None) -> dfx.AbstractSolver:
        if self._has_tangent(problem):
            active = is_differentiated(eqx.filter(problem, eqx.is_inexact_array)) > 0
            solver = looped_for(self.solver, adjoint)
            return WithTangent(solver, active, self._unit(problem), self.tangent)
        if not isinstance(self.solver, AbstractReporting):
            return self.solver
        origin = jax.lax.stop_gradient(problem.y0.theta) if self.by_range else None
        return self.solver.reporting(self.rtol, self.atol, origin, self.short)

    def _has_tangent(self, problem: Problem) -> bool:
        """Whether stability may bound its steps, and a derivative would not see it."""
        own = isinstance(self.solver, AbstractReporting | dfx.AbstractImplicitSolver)
        return self.tangent is not None and not own and self._adapts and problem.has_forward

    def _unit(self, problem: Problem) -> Augmented:
        """What counts as one in each array of the state."""
        # steps carry no derivative, and a norm has none where the gradient is 0
        y0, g0 = jax.lax.stop_gradient((problem.y0, problem.g0))
        given = problem.equation.model.memories(), self.atol, self.strict
        layout = problem.layout
        if layout is None:
            return units(y0, g0, *given)
        return layout.spread(units(layout.many(y0), layout.tree(g0), *given))

    def _first(self, pace: Scalar) -> Scalar:
        return pace if self._adapts else jnp.ones_like(pace)

    @property
    def _remains(self) -> float:
        """What part of the errors that its steps report, added up, the path's error is at most."""
        if isinstance(self.solver, QuasiNewtonBDF):
            return _IMPLICIT
        return _MULTISTEP if isinstance(self.solver, ExponentialMultistep) else _OTHERS

    @property
    def _adapts(self) -> bool:
        return isinstance(self.solver, dfx.AbstractAdaptiveSolver | dfx.AbstractImplicitSolver)

    def _keep(self, problem: Problem) -> Any:
        return lambda t, y, args: problem.keep(*self.clock.at(t, y))

    def _controller(self, problem: Problem) -> dfx.AbstractStepSizeController:
        if not self._adapts:
            return dfx.ConstantStepSize()
        model, y0 = problem.equation.model, jax.lax.stop_gradient(problem.y0)
        unit = self._unit(problem)
        limited = isinstance(self.solver, ExponentialMultistep)
        return Guarded(
            rtol=self.rtol,
            atol=self.atol,
            unit=unit,
            limit=1e8 * (1.0 + largest(y0.theta)),
            end=self.end,
            patience=self.patience,
            warm_up=self.warm_up,
            norm=group_norm,
            negative=BelowZero(model.nonnegative, model.memories(), unit, self.atol),
            expected=self.clock.expected,
            origin=y0.theta,
            short=self.short,
            by_range=self.by_range,
            remains=self._remains,
            **({} if self.price is None else {"price": self.price, "spent": self.spent}),
            steady=self._steady(problem),
            rests=self.steady_tol is not None,
            jumps=self.clock.of(problem.breakpoints) if problem.breakpoints.size else None,
            longest=self.clock.longest(self.longest, y0.theta),
            **({"growth": _GROWTH} if limited else {}),
        )

    def _steady(self, problem: Problem) -> Steady | None:
        if self.steady_tol is None or not self.looks:
            return None
        return Steady(problem.equation, problem.y0.theta, self.end, self.steady_tol)

    def _event(self) -> dfx.Event | None:
        """The user's event, with conditions on s and the original state."""
        if self.event is None:
            return None

        def translate(condition):
            return lambda t, y, args, **kwargs: condition(*self.clock.at(t, y), args, **kwargs)

        conditions = jax.tree.map(translate, self.event.cond_fn, is_leaf=callable)
        return dfx.Event(conditions, self.event.root_finder, self.event.direction)

    def _count(
        self, stats: dict[str, Any], problem: Problem, solution: Any, ran: Flag, first: Flag
    ) -> Any:
        steps = solution.stats["num_steps"]
        gradients = self._gradients(problem, solution, ran, first)
        more = {}
        if not self._adapts:  # nothing is known of its error
            more["solver_error"] = jnp.full_like(stats["solver_error"], jnp.nan)
        else:
            seen = solution.controller_state
            more["solver_error"] = stats["solver_error"] + seen.error_sum
            if self.exact is not None:
                doubt = jnp.where(seen.unsolved >= _UNSOLVED, _DOUBT, 1.0)
                near = doubt * more["solver_error"] <= self.exact * seen.range
                more["converged"] = near & (seen.unresolved == 0) & stats["converged"]
            if "num_clamped" in stats:
                since, _ = self.clock.at(seen.clamped_from, problem.y0)
                more["num_clamped"] = stats["num_clamped"] + seen.clamped
                more["clamped_from"] = jnp.minimum(stats["clamped_from"], since)
            if seen.watch is not None:
                rests, reached = seen.reason == STEADY, solution.ts[1][-1]
                more["steady_at"] = jnp.where(rests, reached, stats["steady_at"])
                gradients = gradients + 2 * seen.watch.looks
        return {
            **stats,
            **more,
            "num_steps": stats["num_steps"] + steps,
            "num_rejected": stats["num_rejected"] + solution.stats["num_rejected_steps"],
            "num_gradients": stats["num_gradients"] + gradients,
        }

    def _gradients(self, problem: Problem, solution: Any, ran: Flag, first: Flag) -> Count:
        """The gradient evaluations, from what each step of the solver makes.

        `ran`: whether this call made steps; `first`: whether they are the first of the leg.
        """
        first, steps = jnp.where(first, 1, 0), solution.stats["num_steps"]
        if isinstance(self.solver, AbstractReporting):
            solver: Any = self._solver(problem)
            return first * solver.first_gradients + solution.controller_state.gradients
        if isinstance(self.solver, Rodas5P):
            return first + steps * gradients_per_step(problem.parameters)
        if self._adapts:  # past a jump the first stage is taken anew
            first = first + solution.controller_state.jumps
        return jnp.where(ran, gradients_of_steps(self.solver, steps, first), 0)


@program
def begin(problem: Problem) -> Front:
    """Where a path begins: nothing is done yet but the first gradient."""
    ts = problem.ts

    def buffer(x):
        x = jnp.asarray(x)  # what is never reached is marked in the end
        return jnp.zeros((ts.size, *x.shape), x.dtype).at[0].set(x)

    stats = {
        "num_steps": jnp.zeros((), int),
        "num_rejected": jnp.zeros((), int),
        "num_gradients": jnp.ones((), int),  # the one at the start, for units and checks
        "implicit_from": jnp.asarray(jnp.inf, ts.dtype),
        "steady_at": jnp.asarray(jnp.inf, ts.dtype),
        "solver_error": jnp.zeros((), ts.dtype),
        "converged": jnp.ones((), bool),
    }
    if problem.equation.model.nonnegative:
        stats["num_clamped"] = jnp.zeros((), int)
        stats["clamped_from"] = jnp.asarray(jnp.inf, ts.dtype)
    return Front(
        ts[0],
        problem.y0,
        jax.tree.map(buffer, problem.keep(ts[0], problem.y0)),
        RESULTS.where(problem.valid, RESULTS.successful, RESULTS.invalid_argument),
        jnp.zeros((), bool),
        first_pace(ts[0], ts[-1]),
        stats,
    )


def first_pace(s: Any, end: Any) -> Any:
    """A tenth of an optimizer step, in which no memory changes much."""
    return jnp.maximum(jnp.minimum(jnp.asarray(0.1, s.dtype), end - s), 0.0)


def gradients_of_steps(solver: dfx.AbstractSolver, steps: Count, first: Count) -> Count:
    """The evaluations of the right-hand side in so many steps; `UNKNOWN` if it does not tell.

    `first`: 1 where they are the first steps of a solve, else 0.
    """
    tableau = getattr(solver, "tableau", None)
    if isinstance(solver, dfx.AbstractERK) and isinstance(tableau, dfx.ButcherTableau):
        if tableau.fsal:
            return first + steps * (tableau.num_stages - 1)
        return steps * tableau.num_stages
    return steps if isinstance(solver, dfx.Euler) else jnp.full_like(steps, UNKNOWN)


def checkpointed(y: Augmented, max_steps: int) -> Replay:
    """Reverse mode that recomputes a step where the state before it is not kept.

    All states are kept where they fit.
    """
    state = 1024 + _STATES * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(y))
    count = min(max_steps, _MOST, max(_FEWEST, _ROOM // state))
    return Replay(count)


@eqx.filter_custom_jvp
def _arrived(field: Any, t: Scalar, y: Augmented, here: Flag) -> Augmented:
    """`y`, which is the state at `t` where `here`, with its derivative in `t`.

    The solver's own times carry none.
    """
    del field, t, here
    return y


@_arrived.def_jvp
def _arrived_jvp(primals: Any, tangents: Any) -> Any:
    (field, t, y, here), (_, of_t, of_y, _) = primals, tangents
    if of_t is None:
        return y, of_y
    moved = jax.tree.map(lambda v: jnp.where(here, v * of_t, 0.0), field(t, y, None))
    add = lambda dy, moved: moved if dy is None else dy + moved
    return y, jax.tree.map(add, of_y, moved, is_leaf=lambda x: x is None)


def rows(new: Array, a: Array, b: Array) -> Array:
    """Where `new` (shape `(T,)`) the rows of `a`, else those of `b`."""
    return jnp.where(new.reshape((-1,) + (1,) * (b.ndim - 1)), a, b)
