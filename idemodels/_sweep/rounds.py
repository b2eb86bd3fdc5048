"""What is done to one lane of a sweep; it is mapped over all of them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._compare import compare
from .._discrete import run_discrete
from .._equation import Augmented
from .._method import Carry, Front, Leg, Markov, Problem, Steady, Watch, begin
from .._model import AbstractModel
from .._parameters import as_parameters
from .._results import RESULTS, Trajectory, is_okay
from .._solve import Held, equation_for, known_breakpoints, prepare, report, solve
from .._target import Base, Target
from .._types import Flag

# How a lane ended; the numbers are what is stored.
STATUS = (
    "done",
    "steady",
    "diverged",
    "out of steps",
    "non-finite",
    "invalid",
    "step too small",
    "other failure",
    "not run",
)
NOT_RUN = STATUS.index("not run")
# What a lane is that was solved.
FINE = (STATUS.index("done"), STATUS.index("steady"))

# How much later than alone a lane is handed over to the implicit method, which shares little of its
# work with other lanes.
_PATIENCE = 8


class Lane(eqx.Module):
    """A lane on its way.

    - `values`: what is swept, by name.
    - `y0`, `g0`, `valid`: as in `Problem`.
    - `front`, `carry`: how far the equation has come.
    - `watch`: whether it has come to rest; `None` where nobody asks.
    - `discrete`: the discrete run; `None` where nobody asks.
    """

    values: dict[str, Any]
    y0: Augmented
    g0: Any
    valid: Flag
    front: Front
    carry: Carry
    watch: Watch | None
    discrete: Trajectory | None


class Setup(eqx.Module):
    """A sweep, as far as all its lanes share it.

    - `method`: `Markov`, which alone goes in rounds, or another.
    - `ts`: where paths are compared and measured, from 0 to the last step.
    - `metrics`: by name, functions of the continuous and the discrete trajectory.
    - `rows`: which of `ts` the user wants; `keep`: whether the paths there as well.
    - `edges`: where the learning rate jumps or has a kink, if all lanes share it; else `None`.
    """

    base: Base
    targets: dict[str, Target]
    method: Any
    ts: Array
    marks: tuple[int, ...] = eqx.field(static=True)
    metrics: tuple[tuple[str, Callable[..., Any]], ...] = eqx.field(static=True)
    discrete: bool = eqx.field(static=True)
    rows: tuple[int, ...] = eqx.field(static=True)
    keep: bool = eqx.field(static=True)
    edges: Array | None = None

    @property
    def in_rounds(self) -> bool:
        """Whether lanes go in rounds of a few steps, rather than all to their end."""
        return isinstance(self.method, Markov) and isinstance(self.base.model, AbstractModel)

    def whole(self, values: dict[str, Any]) -> dict[str, Any]:
        """The outputs of a lane at once, by any method."""
        return self.measured(*self.whole_paths(values))

    def whole_paths(self, values: dict[str, Any]) -> tuple[Trajectory, Trajectory | None]:
        """The continuous and the discrete trajectory of a lane at once."""
        base = self._base(values)
        ts = np.asarray(self.marks, self.ts.dtype)  # known, which some methods need
        given = (base.model, base.objective, base.theta0, ts)
        path = solve(*given, args=base.args, method=self.method, throw=False)
        return path, self._twin(base)

    def begin(self, values: dict[str, Any]) -> Lane:
        """A lane before its first step, its discrete run behind it."""
        base = self._base(values)
        problem = self._posed(base)
        front = self.method.first_front(problem, begin(problem), None)
        leg, front = self._main(problem, front)
        watch = None
        if self.method.rest is not None:
            watch = self._steady(problem).begin(front.t, front.y)
        own = (values, problem.y0, problem.g0, problem.valid)
        return Lane(*own, front, leg.begin(problem, front), watch, self._twin(base))

    def advance(self, lane: Lane, steps: int) -> Lane:
        """At most so many solver steps further."""
        problem = self._problem(lane)
        leg, _ = self._main(problem, lane.front)
        return self._advanced(problem, leg, lane, steps)

    def stiffen(self, lane: Lane) -> Lane:
        """A lane whose main leg ended because it is stiff, before the implicit one."""
        problem = self._problem(lane)
        leg, front = self._implicit(problem, lane.front)
        return dataclasses.replace(lane, front=front, carry=leg.begin(problem, front))

    def advance_stiff(self, lane: Lane, steps: int) -> Lane:
        """The same in the implicit leg."""
        problem = self._problem(lane)
        stiff = dataclasses.replace(lane.front, stiff=jnp.ones((), bool))
        leg, _ = self._implicit(problem, stiff)
        return self._advanced(problem, leg, lane, steps)

    def over(self, lane: Lane) -> Flag:
        """Whether no step is left to be made in the leg."""
        front = lane.front
        return (front.result != RESULTS.successful) | (front.t >= self.ts[-1])

    def outputs(self, lane: Lane) -> dict[str, Any]:
        """What is kept of a lane that is over."""
        return self.measured(*self.paths(lane))

    def paths(self, lane: Lane) -> tuple[Trajectory, Trajectory | None]:
        """The continuous and the discrete trajectory of a lane that is over."""
        problem = self._problem(lane)
        answer = self.method.answer(problem, lane.front)
        return report(problem, answer, False), lane.discrete

    def compared(
        self, path: Trajectory, discrete: Trajectory | None
    ) -> tuple[Trajectory, Trajectory | None]:
        """Both where the user wants them, as metrics are given them."""
        return _rows(path, self.rows), None if discrete is None else _rows(discrete, self.rows)

    def measured(self, path: Trajectory, discrete: Trajectory | None) -> dict[str, Any]:
        """The variables of the data set, of one lane."""
        okay = is_okay(path.result)
        number = lambda x: jnp.where(okay, x, jnp.nan)
        last = lambda tree: jax.tree.map(lambda x: x[-1], eqx.filter(tree, eqx.is_inexact_array))
        out: dict[str, Any] = {
            "final_theta": last(path.theta),
            "final_loss": path.loss[-1],  # pyright: ignore[reportOptionalSubscript]
        }
        whole, (path, discrete) = discrete, self.compared(path, discrete)
        if whole is not None and discrete is not None:
            apart = compare(path, discrete)
            leaves = zip(
                *map(jax.tree.leaves, (out["final_theta"], last(whole.theta))), strict=True
            )
            out |= {
                "discrete_loss": whole.loss[-1],  # pyright: ignore[reportOptionalSubscript]
                "max_error": number(apart.max_error),
                "final_error": number(
                    jnp.max(jnp.stack([jnp.max(abs(a - b), initial=0) for a, b in leaves]))
                ),
            }
        out |= {name: _as_arrays(name, f(path, discrete)) for name, f in self.metrics}
        out["num_steps"] = path.stats["num_steps"]
        out["num_gradients"] = path.stats["num_gradients"]
        out["status"] = status_of(path.result)
        if self.keep:
            out |= {"theta": eqx.filter(path.theta, eqx.is_inexact_array), "loss": path.loss}
            if discrete is not None:
                out["discrete_theta"] = eqx.filter(discrete.theta, eqx.is_inexact_array)
        return out

    def _twin(self, base: Base) -> Trajectory | None:
        if not self.discrete:
            return None
        given = (base.model, base.objective, base.theta0, self.marks[-1])
        return run_discrete(*given, ts=self.marks, args=base.args)

    def _base(self, values: dict[str, Any]) -> Base:
        base = self.base
        for name, target in self.targets.items():
            old = target.of(base)
            base = target.put(base, eqx.combine(values[name], old))  # what is fixed, as it was
        return base

    def _posed(self, base: Base) -> Problem:
        theta, rest = as_parameters(base.theta0)
        equation = equation_for(base.model, Held(base.objective, rest), base.args, theta)
        edges = self.edges
        if edges is None:
            edges = known_breakpoints(base.model, self.ts, self.method)
        return prepare(equation, theta, None, self.ts, jnp.ones((), bool), None, edges)

    def _problem(self, lane: Lane) -> Problem:
        """As it was posed; what was computed then is not computed again."""
        posed = self._posed(self._base(lane.values))
        return dataclasses.replace(posed, y0=lane.y0, g0=lane.g0, valid=lane.valid)

    def _main(self, problem: Problem, front: Front) -> tuple[Leg, Front]:
        leg, front = self.method.main_leg(
            problem, front, self._takes_over(problem), differentiated=False
        )
        patience = None if leg.patience is None else _PATIENCE * leg.patience
        return dataclasses.replace(leg, looks=False, patience=patience), front

    def _implicit(self, problem: Problem, front: Front) -> tuple[Leg, Front]:
        by = self._takes_over(problem)
        assert by is not None  # else no lane's main leg is ever stiff
        leg, front = self.method.implicit_leg(problem, front, by)
        return dataclasses.replace(leg, looks=False), front

    def _takes_over(self, problem: Problem) -> dfx.AbstractSolver | None:
        return self.method.implicit_solver(problem, differentiated=False)

    def _steady(self, problem: Problem) -> Steady:
        equation, origin = problem.equation, problem.y0.theta
        return Steady(equation, origin, problem.ts[-1], self.method.rest)

    def _advanced(self, problem: Problem, leg: Leg, lane: Lane, steps: int) -> Lane:
        front, carry = leg.advance(problem, lane.front, lane.carry, steps)
        if lane.watch is None:
            return dataclasses.replace(lane, front=front, carry=carry)
        # Once a round: in a batch some lane would look at every step, and all would pay for it.
        moved = front.running & (front.t > lane.front.t)
        watch, rests = self._steady(problem)(lane.watch, lane.front.y, front.t, front.y, moved)
        looks = watch.looks - lane.watch.looks
        stats = front.stats
        stats = {
            **stats,
            "num_gradients": stats["num_gradients"] + 2 * looks,
            "steady_at": jnp.where(rests, front.t, stats["steady_at"]),
        }
        result = RESULTS.where(rests, RESULTS.steady_state, front.result)
        front = dataclasses.replace(front, result=result, stats=stats)
        return dataclasses.replace(lane, front=front, carry=carry, watch=watch)


def _as_arrays(name: str, made: Any) -> Any:
    """What a metric returned, Python's numbers as arrays.

    **Raises:** `ValueError` if it has anything else.
    """
    for x in jax.tree.leaves(made):
        if not eqx.is_array_like(x):
            raise ValueError(
                f"Argument `metrics` must return arrays or numbers, but {name!r} returns {x!r}."
            )
    return jax.tree.map(jnp.asarray, made)


def _rows(path: Trajectory, rows: tuple[int, ...]) -> Trajectory:
    """A trajectory at some of its steps."""
    at = np.asarray(rows)
    moves = eqx.is_inexact_array  # other leaves of theta have no rows
    take = lambda tree: jax.tree.map(lambda x: x[at] if moves(x) else x, tree)
    kept = {name: take(getattr(path, name)) for name in ("ts", "times", "theta", "loss", "moments")}
    return dataclasses.replace(path, **kept, states=None, last=None)


def status_of(result: Any) -> Array:
    """The index in `STATUS`."""
    named = {
        "successful": "done",
        "event_occurred": "done",
        "steady_state": "steady",
        "diverged": "diverged",
        "max_steps_reached": "out of steps",
        "nonfinite_gradient": "non-finite",
        "invalid_argument": "invalid",
        "step_too_small": "step too small",
    }
    status = jnp.full((), STATUS.index("other failure"), jnp.int8)
    for name, word in named.items():
        here = result == getattr(RESULTS, name)
        status = jnp.where(here, jnp.asarray(STATUS.index(word), jnp.int8), status)
    return status
