"""One stretch of a path: a call of diffrax, taken up where the stretch before it ended."""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._equation import Augmented
from .._results import RESULTS
from .._types import Count, Flag, Scalar
from .base import Problem
from .clock import AbstractClock
from .control import NOT_STOPPED, STEADY, STIFF, BelowZero, Guarded, to_result
from .exponential_multistep import ExponentialMultistep
from .norms import group_norm, largest, units
from .reporting import AbstractReporting
from .rodas5p import Rodas5P, gradients_per_step
from .steady import Steady

# Extrapolation to ten times the distance would magnify the rounding of five gradients 1e5 times.
_GROWTH = 3.0
# Checkpoints: bytes for all of them, how few and how many there are, and how many states of the
# equation one of them holds with the past of a multistep method.
_ROOM, _FEWEST, _MOST, _STATES = 2**24, 16, 4096, 4
# Counts a leg whose solver does not tell how often it calls the right-hand side.
_UNKNOWN = -(2**30)


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
    def running(self) -> Flag:
        return self.result == RESULTS.successful


class Leg(eqx.Module):
    """How a stretch is integrated, and how far.

    - `end`: in the clock's time; nothing happens if the path is there already.
    - `steady_tol`: `None` does not look whether the path has come to rest.
    - `patience`, `strict`: see `Guarded` and `units`.
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

    def run(self, problem: Problem, front: Front, adjoint: dfx.AbstractAdjoint | None) -> Front:
        """The path, as far as this leg leads."""
        start = front.t
        ts = self.clock.of(problem.ts)
        inside = jnp.clip(ts, start, self.end)
        solver = self.solver
        if isinstance(solver, AbstractReporting):
            solver = solver.reporting(self.rtol, self.atol)
        solution = dfx.diffeqsolve(
            dfx.ODETerm(self.clock.field()),
            solver,
            start,
            self.end,
            front.pace if self._adapts else jnp.ones_like(front.pace),
            front.y,
            saveat=dfx.SaveAt(
                subs=[
                    dfx.SubSaveAt(ts=inside, fn=self._keep(problem)),
                    dfx.SubSaveAt(t1=True),
                ],
                controller_state=True,
            ),
            stepsize_controller=self._controller(problem, start),
            adjoint=self._checkpointed(front.y) if adjoint is None else adjoint,
            event=self._event(),
            max_steps=self.max_steps,
            throw=False,
        )
        assert solution.ts is not None
        assert solution.ys is not None
        reached = solution.ts[1][-1]
        new = (ts > start) & (ts <= reached)
        kept = jax.tree.map(lambda a, b: rows(new, a, b), solution.ys[0], front.kept)
        state = solution.controller_state
        reason = state.reason if self._adapts else jnp.full((), NOT_STOPPED)  # pyright: ignore
        ran = self.end > start
        result = to_result(reason, solution.result)
        return Front(
            reached,
            jax.tree.map(lambda y: y[-1], solution.ys[1]),
            kept,
            RESULTS.where(ran, result, front.result),
            ran & (reason == STIFF),
            state.progress if self._adapts else front.pace,  # pyright: ignore
            self._count(front.stats, problem, solution, ran),
        )

    @property
    def _adapts(self) -> bool:
        return isinstance(self.solver, dfx.AbstractAdaptiveSolver | dfx.AbstractImplicitSolver)

    def _checkpointed(self, y: Augmented) -> dfx.AbstractAdjoint:
        """Reverse mode that takes a step anew where its state is not among the checkpoints.

        What is computed anew differs by rounding, which the step sizes magnify, to 1e-8 of a
        derivative at rtol 1e-10: where there is room for them, every state is one.
        """
        state = 1024 + _STATES * sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(y))
        count = min(self.max_steps, _MOST, max(_FEWEST, _ROOM // state))
        return dfx.RecursiveCheckpointAdjoint(checkpoints=count)

    def _keep(self, problem: Problem) -> Any:
        return lambda t, y, args: problem.keep(*self.clock.at(t, y))

    def _controller(self, problem: Problem, start: Scalar) -> dfx.AbstractStepSizeController:
        if not self._adapts:
            return dfx.ConstantStepSize()
        model = problem.equation.model
        unit = units(problem.y0, problem.g0, model.memories(), self.atol, self.strict)
        limited = isinstance(self.solver, ExponentialMultistep)
        return Guarded(
            rtol=self.rtol,
            atol=self.atol,
            unit=unit,
            limit=1e8 * (1.0 + largest(problem.y0.theta)),
            start=start,
            end=self.end,
            patience=self.patience,
            norm=group_norm,
            negative=BelowZero(model.nonnegative, model.memories(), unit, self.atol),
            steady=self._steady(problem),
            **({"growth": _GROWTH} if limited else {}),
        )

    def _steady(self, problem: Problem) -> Steady | None:
        if self.steady_tol is None:
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

    def _count(self, stats: dict[str, Any], problem: Problem, solution: Any, ran: Flag) -> Any:
        steps, gradients = solution.stats["num_steps"], self._gradients(problem, solution, ran)
        more = {}
        if self._adapts:
            seen = solution.controller_state
            if "num_clamped" in stats:
                since, _ = self.clock.at(seen.clamped_from, problem.y0)
                more["num_clamped"] = stats["num_clamped"] + seen.clamped
                more["clamped_from"] = jnp.minimum(stats["clamped_from"], since)
            if self.steady_tol is not None:
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

    def _gradients(self, problem: Problem, solution: Any, ran: Flag) -> Count:
        """The gradient evaluations, from what each step of the solver makes."""
        first, steps = jnp.where(ran, 1, 0), solution.stats["num_steps"]
        if isinstance(self.solver, AbstractReporting):
            return first * self.solver.first_gradients + solution.controller_state.gradients
        if isinstance(self.solver, Rodas5P):
            return first + steps * gradients_per_step(problem.parameters)
        tableau = getattr(self.solver, "tableau", None)
        if isinstance(self.solver, dfx.AbstractERK) and isinstance(tableau, dfx.ButcherTableau):
            if tableau.fsal:
                return first + steps * (tableau.num_stages - 1)
            return steps * tableau.num_stages
        if isinstance(self.solver, dfx.Euler):
            return steps
        return jnp.where(ran, _UNKNOWN, 0)


def rows(new: Array, a: Array, b: Array) -> Array:
    """Where `new` (shape `(T,)`) the rows of `a`, else those of `b`."""
    return jnp.where(new.reshape((-1,) + (1,) * (b.ndim - 1)), a, b)
