"""The augmented ODE through diffrax."""

import dataclasses
import warnings
from typing import Any

import diffrax as dfx
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._checks import check_count, is_concrete
from .._equation import Augmented
from .._flow import FlowEquation
from .._model import AbstractModel, as_breakpoints
from .._programs import program
from .._results import RESULTS
from .._types import Flag
from .base import AbstractMethod, Answer, Problem, is_advanced, is_markov
from .clock import LogTime, StepTime
from .control import early_gradients
from .exponential_multistep import ExponentialMultistep
from .flow_parts import run_flow
from .kick_drift import has_momentum
from .layout import flattened, is_flattened
from .leg import Front, Leg, begin, first_pace, rows
from .norms import fastest_rate
from .quasi_newton_bdf import QuasiNewtonBDF
from .rodas5p import IMPLICIT_PARAMETERS, Rodas5P, gradients_per_step

# The multistep leg counts as stiff when it makes, or expects to make, as many steps as cost as many
# gradients as this number of implicit ones; a Runge-Kutta leg, with more gradients in a step, after
# half as many.
_PATIENCE = 300
# Of many parameters a path is stiff where it asks for so many steps for each optimizer step, and
# for so many at all: beyond a discrete run's edge of stability, RMSProp on the digits, it took 6 of
# them at order 3 and 11 at order 5, where Adam short of it takes less than 2.
# What takes over is less exact where a path swings: the first steps decide nothing.
_EDGE, _MANY, _SURE = 4, 2000, 200
# The part of `rtol` that rounding may be for the quasi-Newton iteration to converge: in single
# precision RMSProp on the digits fails at 1e-3, which the explicit method solves.
_RESOLVED = 1e-5
# Rates per optimizer step beyond which the implicit method runs from the start: fitted power laws,
# whose path is not smooth at s = 0. An explicit method takes thousands of steps, or, the multistep
# one, overlooks the start.
_FASTEST = 100.0
# An inertial path may go on swinging within a few optimizer steps, however long it is: so many
# solver steps for each are no sign that it is stiff.
_PER_STEP = 20
# Where g = 0 the direction turns over within eps of it. A stiff leg that does not resolve that
# layer chatters across it, within its tolerance but for tens of thousands of steps.
_STIFF_RTOL, _STIFF_ATOL = 1e-10, 1e-12
# A memory is empty that holds less than it gains in this part of an optimizer step.
_EMPTY = 1e-3
# The least `rtol`, in units of the last place.
_ROUNDING = 8.0
# Below this rtol the method of order 8 needs fewer gradients than the one of order 5.
_TIGHT = 3e-8
# Where a path's price is bounded, what would take shorter steps for longer than a while is made of
# steps as long as these, in optimizer steps; and the least price that leaves room for others.
_SHORT, _LEAST_PRICE = 0.5, 3.0
# The gradients of a start in ln s that do not count, as they are usual; and those of a step there.
_START, _STAGES = 100, 6
# The price that is usual, and the rtol from which on a path has it if nothing else is said.
_PRICE, _BOUNDED = 3.0, 1e-5
# A path counts as converged whose error is estimated to be so many times `rtol` at most.
_CONVERGED = 10.0
# The part of `rtol` by which what is to come may move a path that is held.
_RESTS = 0.3
# The order of the multistep method, and the rtol down to which it needs the fewest gradients.
_ORDERS = {3: 2e-4, 4: 3e-6, 5: 3e-8, 6: 0.0}
# The part of the tolerances that it is given, above `_TIGHT`, where nobody asked for it: it weighs
# the error of a memory less than the other methods do.
_MULTISTEP = 0.3
# The part that the implicit multistep method is given: an error of an early step goes on in the
# second moment for as long as that lasts.
_IMPLICIT = 0.07
# The part that it is given where it takes over and nothing bounds the price, and the rtol from
# which on that becomes smaller.
_HANDED, _HANDED_AT = 0.0022, 1e-4
# There the dense output is some hundred times less exact than the steps that are controlled: the
# path between them keeps the tolerance if the steps keep this part of it.
_DENSE = 0.1


class Markov(AbstractMethod):
    """Integrates the augmented equation, parameters beside memories, with diffrax.

    With a bound on its price, see `max_gradients`, a path costs about what the run does. Where a
    memory is one of the gradient itself (Adam), so that theta may swing, the path is made by
    [`idemodels.ExponentialMultistep`][]; where none is (RMSProp, AdaGrad), so that it relaxes ever
    faster, by [`idemodels.QuasiNewtonBDF`][], by gradients alone. Mostly that takes less than a
    gradient an optimizer step. Where it would take more than is left, steps of half an optimizer
    step are made by splitting: memories exactly at frozen parameters, parameters at frozen
    memories; of order 2, and as stable as the optimizer itself. So a solve fails where the run
    does, and `stats["converged"]` is False where its error may be more than 10 times `rtol`. `rtol`
    is then a part of the path's range so far, the largest distance of any parameter from its start.

    Without the bound a path is followed whatever it takes, in up to three legs, each a
    `diffrax.diffeqsolve`: a rough start, see below; then `ExponentialMultistep`, of order 3 to 6 as
    `rtol` asks, or, where there is inertia, a Runge-Kutta method (Tsit5, or Dopri8 where `rtol` <
    3e-8); and where that would take thousands of steps because the path has become stiff (past
    convergence, mostly) or a memory forgets within a hundredth of a step, an implicit one to the
    end. It is the linearly implicit Rodas5P up to 32 parameters; beyond, or where the objective has
    no second derivatives, `QuasiNewtonBDF`, in a call that is neither traced nor differentiated, in
    double precision. `stats["implicit_from"]` tells from where.

    A path that is not smooth in s at the start, of a causal reading or of `SecondOrderAdam`, or
    taken up with an empty memory, begins in $\\ln s$ up to s = 1, by those Runge-Kutta methods.

    An [`idemodels.InterpolatingFlow`][] is solved by Bosh3 up to order 2 where `rtol` >= 1e-5, by
    Dopri8 where `rtol` < 3e-8, and else by Tsit5; its tolerances hold in theta and in each leaf of
    the optimizer's state.

    **Arguments:**

    - `solver`: any diffrax solver, for the whole path after a causal start; `None` for the legs
        above. One without an error estimate takes steps of one optimizer step each: with
        `diffrax.Euler()` the scheme of the papers' own simulations.
    - `rtol`, `atol`: tolerances for the error of a step, in theta and in each memory, whichever is
        worse. `atol` is in units of theta, and of each memory's feature at the first gradient.
        `rtol` is at least eight units of the last place, 9.5e-7 in float32: less warns.
    - `steady_tol`: the path ends, and is held, where nothing that is still to come moves it by more
        than this part of its range. What is to come is bounded, not guessed from a small gradient:
        see `stats["steady_at"]`. A held path is not differentiated past that point, and memories
        are held with it. `"rtol"` is .3 `rtol`, and `None` with an `event`; `None` never holds.
    - `max_steps`: solver steps, rejected ones included, for each leg.
    - `max_step`: optimizer steps that one step of the solver may be long. `None` is 1 with an
        `event`, else no bound. A feature of the loss, or of a direction in s, that is passed within
        a step is not seen: bound the step where there may be one.
    - `max_gradients`: gradients for each optimizer step, in the mean, that a path takes at most,
        and some 100 more: 3 or more. `"rtol"` is 3, but `None` where `rtol` is below 1e-5 or a
        `max_step` is given; `None` does not bound them. A flow, a model with inertia and a `solver`
        of your own do not use it.
    - `breakpoints`: steps at which a direction of your own jumps or has a kink in s: increasing
        numbers, to which the solver steps. Those of a learning rate are found, or told by
        [`idemodels.Schedule`][].
    - `event`: a `diffrax.Event` that ends the path; its condition is called with `(s, y, args)`,
        where `y.theta` and `y.memory` are the state.

    **Raises:** `ValueError` for a tolerance that is not positive, `max_steps` below 1, a `solver`
    that is not diffrax's.
    """

    solver: dfx.AbstractSolver | None = None
    rtol: float = eqx.field(default=1e-4, kw_only=True)
    atol: float = eqx.field(default=1e-9, kw_only=True)
    max_steps: int = eqx.field(default=100_000, kw_only=True)
    steady_tol: float | str | None = eqx.field(default="rtol", kw_only=True)
    max_step: float | None = eqx.field(default=None, kw_only=True)
    max_gradients: float | int | str | None = eqx.field(default="rtol", kw_only=True)
    breakpoints: tuple[Any, ...] = eqx.field(default=(), kw_only=True, converter=as_breakpoints)
    event: dfx.Event | None = eqx.field(default=None, kw_only=True)

    def __check_init__(self):
        if self.solver is not None and not isinstance(self.solver, dfx.AbstractSolver):
            raise ValueError(
                f"Argument `solver` must be a diffrax solver or None, but is {self.solver!r}. "
                "Write `diffrax.Tsit5()`, with its parentheses."
            )
        words = {"steady_tol": ", 'rtol' or None", "max_step": " or None"}
        for name in ("rtol", "atol", "steady_tol", "max_step"):
            value = getattr(self, name)
            if (name in words and value is None) or (name, value) == ("steady_tol", "rtol"):
                continue
            if not isinstance(value, float | int) or not 0 < value < float("inf"):
                raise ValueError(
                    f"Argument `{name}` must be a positive number{words.get(name, '')}, but is "
                    f"{value!r}."
                )
        bound = self.max_gradients
        known = bound is None or bound == "rtol"
        if not (known or (isinstance(bound, float | int) and bound >= _LEAST_PRICE)):
            raise ValueError(
                f"Argument `max_gradients` must be at least {_LEAST_PRICE:g} gradients a step, "
                f"'rtol' or None, but is {bound!r}."
            )
        check_count(self.max_steps, "max_steps")

    @property
    def told(self):
        return self.breakpoints

    def solves(self, model):
        """**Returns:** whether it has finitely many states, and reads none of them ahead."""
        return is_markov(model) and not is_advanced(model)

    @property
    def price(self) -> float | None:
        """The gradients for each optimizer step that a path takes at most, where it has a bound."""
        if self.solver is not None or self.max_gradients is None:
            return None
        if self.max_gradients == "rtol":
            free = self.max_step is not None or self.rtol < _BOUNDED
            return None if free else _PRICE
        return float(self.max_gradients)

    def prepare(self, ts, state0, dtype):
        """**Returns:** itself, with a tolerance that the precision can follow."""
        del ts, state0
        least = float(f"{_ROUNDING * float(jnp.finfo(dtype).eps):.1e}")
        if self.rtol >= least:
            return self
        warnings.warn(
            f"Argument `rtol` must be {least:g} or more in {jnp.dtype(dtype).name}, but is "
            f"{self.rtol:g}: {least:g} is taken. For less, set `jax_enable_x64` and pass `theta0` "
            "in float64.",
            stacklevel=3,
        )
        return dataclasses.replace(self, rtol=least)

    def bounds(self, model: AbstractModel) -> bool:
        """Whether a path takes a few gradients an optimizer step at most."""
        return self.price is not None and not model.inertial

    @property
    def rest(self) -> float | None:
        """The part of a path's range by which it may still move where it is held."""
        if self.steady_tol == "rtol":
            return _RESTS * self.rtol if self.event is None else None
        return self.steady_tol  # pyright: ignore[reportReturnType]

    def run(self, problem, adjoint):
        if isinstance(problem.equation, FlowEquation):
            return run_flow(self, problem, adjoint)
        if self.event is None and is_flattened(problem):
            problem = flattened(problem)
        front = begin(problem)
        known = is_concrete((problem, front))
        if known and self.event is None:
            adjoint = adjoint or dfx.ForwardMode()  # nothing is differentiated: plain loops
        front = self.first_front(problem, front, adjoint)
        by = self.implicit_solver(problem, differentiated=not known)
        front = _main(self, problem, front, adjoint, by, not known).made()
        # Where the outcome is known now the third leg is not even compiled, which halves the time
        # to the first answer; in a traced call it is there, and runs for no steps.
        if by is not None and not (known and not bool(front.stiff)):
            front = _implicit(self, problem, front, adjoint, by).made()
        return self.answer(problem, front)

    @program
    def answer(self, problem: Problem, front: Front) -> Answer:
        """What came of the legs."""
        if self.rest is not None:
            front = _held(problem, front)
        stats = {**front.stats, "num_gradients": jnp.maximum(front.stats["num_gradients"], -1)}
        result = front.result
        if "num_clamped" in stats:  # whatever else came of it
            clamped = stats["num_clamped"] > 0
            result = RESULTS.where(clamped, RESULTS.negative_second_moment, result)
        y = front.y if problem.layout is None else problem.layout.many(front.y)
        return Answer(front.kept, front.t, y, result, stats)

    def first_front(self, problem: Problem, front: Front, adjoint: Any) -> Front:
        """Where the main leg begins: where the path does, or past a start in ln s."""
        if problem.equation.model.rough_start:
            front = _start(self, problem, front, adjoint).made()
        return front

    @property
    def _part(self) -> float:
        """The part of the tolerances that Runge-Kutta methods are given."""
        return _DENSE if self.rtol < _TIGHT else 1.0

    @property
    def _longest(self) -> float | None:
        """An event that lasts for as long as an optimizer step is seen."""
        return 1.0 if self.max_step is None and self.event is not None else self.max_step

    def _implicitly(self, problem: Problem, differentiated: bool) -> bool:
        """Whether the path is made by the implicit multistep method, where its price is bounded.

        With a memory of the gradient theta swings, which that resolves no better than an explicit
        method; without one it relaxes, ever faster as the second moment fades. Its derivative takes
        the gradient's own, in forward mode.
        """
        if has_momentum(problem.equation.model):
            return False
        return not differentiated or problem.has_forward

    def _runge_kutta(self) -> dfx.AbstractSolver:
        return dfx.Dopri8() if self.rtol < _TIGHT else dfx.Tsit5()

    def _user_or_multistep(self) -> dict[str, Any]:
        """The solver that was given, with the tolerances as they are; or ours."""
        if self.solver is not None:
            return {"solver": self.solver, "rtol": self.rtol, "atol": self.atol}
        order = next(p for p, least in _ORDERS.items() if self.rtol >= least)
        part = _MULTISTEP if self.price is None and self.rtol >= _TIGHT else 1.0
        solver = ExponentialMultistep(order)
        return {"solver": solver, "rtol": part * self.rtol, "atol": part * self.atol}

    def implicit_solver(
        self, problem: Problem, differentiated: bool = True
    ) -> dfx.AbstractSolver | None:
        """What takes over where the path is stiff; `None` where nothing does.

        - `differentiated`: whether the path may be.
        """
        if self.solver is not None or self.bounds(problem.equation.model):
            return None
        if problem.parameters <= IMPLICIT_PARAMETERS and problem.curved:
            return Rodas5P()
        eps = float(jnp.finfo(problem.ts.dtype).eps)
        able = not problem.equation.model.inertial and eps <= _RESOLVED * self.rtol
        return QuasiNewtonBDF() if able and not differentiated else None

    def main_leg(
        self,
        problem: Problem,
        front: Front,
        by: dfx.AbstractSolver | None,
        differentiated: bool = True,
    ) -> tuple[Leg, Front]:
        """The explicit leg, or the user's, and where it begins; it is empty where there is none.

        - `by`: the implicit method that takes over.
        - `differentiated`: whether the path may be.
        """
        running, stiff = front.running, front.stiff
        if by is not None:
            fast = fastest_rate(problem.equation.model, front.t.dtype) > _FASTEST
            stiff = stiff | (running & fast)
            running = running & ~fast
        end = jnp.where(running, problem.ts[-1], front.t)
        inertial = problem.equation.model.inertial
        changed = self._user_or_multistep() if self.solver is not None or not inertial else {}
        if self.bounds(problem.equation.model):
            price, exact = self.price, _CONVERGED * self.rtol
            changed |= {"short": _SHORT, "price": price, "exact": exact, "by_range": True}
            changed["spent"] = jnp.maximum(front.stats["num_gradients"] - _START, 0)
            if self._implicitly(problem, differentiated):
                changed["solver"] = QuasiNewtonBDF()
                changed |= {"rtol": _IMPLICIT * self.rtol, "atol": _IMPLICIT * self.atol}
        if by is not None:
            span = problem.ts[-1] - problem.ts[0]
            if isinstance(by, Rodas5P):
                steps = _PATIENCE * gradients_per_step(problem.parameters) / (2 if inertial else 1)
                patience = jnp.asarray(min(steps, self.max_steps), front.t.dtype)
                patience = jnp.maximum(patience, _PER_STEP * span) if inertial else patience
            else:
                patience = jnp.maximum(_MANY, _EDGE * span)
                changed["warm_up"] = _SURE
            changed["patience"] = patience
        if differentiated:
            changed["tangent"] = self.rtol
        leg = self._leg(StepTime(problem.equation), end, **changed)
        return leg, dataclasses.replace(front, stiff=stiff)

    def implicit_leg(
        self, problem: Problem, front: Front, by: dfx.AbstractSolver
    ) -> tuple[Leg, Front]:
        """The leg where the path is stiff, and where it begins; it is empty elsewhere."""
        eps = float(jnp.finfo(front.t.dtype).eps)
        result = RESULTS.where(front.stiff, RESULTS.successful, front.result)
        stats = {**front.stats, "implicit_from": jnp.where(front.stiff, front.t, jnp.inf)}
        pace = jnp.maximum(front.pace, 100 * eps * jnp.maximum(front.t, 1.0))
        end = jnp.where(front.stiff, problem.ts[-1], front.t)
        if isinstance(by, Rodas5P):
            tolerances = {
                "rtol": min(self._part * self.rtol, max(_STIFF_RTOL, 10 * eps)),
                "atol": min(self._part * self.atol, _STIFF_ATOL),
                "strict": True,
            }
        else:
            # errors of steps add up; their number goes with the fourth root of the tolerance
            part = _HANDED * min(1.0, self.rtol / _HANDED_AT) ** 0.25
            tolerances = {"rtol": part * self.rtol, "atol": part * self.atol, "by_range": True}
        leg = self._leg(StepTime(problem.equation), end, solver=by, **tolerances)
        return leg, dataclasses.replace(front, result=result, stats=stats, pace=pace)

    def _leg(self, clock: Any, end: Any, **changed: Any) -> Leg:
        """A leg with this method's tolerances, limits and event, but for what is `changed`."""
        usual: dict[str, Any] = {
            "max_steps": self.max_steps,
            "strict": False,
            "patience": None,
            "event": self.event,
            "steady_tol": self.rest,
            "longest": self._longest,
        }
        if "solver" not in changed:  # a choice by tolerances, which else may be traced
            usual["solver"] = self._runge_kutta()
            usual |= {"rtol": self._part * self.rtol, "atol": self._part * self.atol}
        return Leg(clock=clock, end=end, **(usual | changed))


@program
def _start(method: Markov, problem: Problem, front: Front, adjoint: Any) -> Front:
    """Where a memory is empty: one optimizer step, or less, in the logarithm of what has passed."""
    start, end = front.t, problem.ts[-1]
    clock = LogTime(problem.equation, jax.lax.stop_gradient(start), front.y.memory)
    # so early that the way made before, of the order of its root, is below the tolerance
    first = jnp.minimum((1e-3 * method.rtol) ** 2, 1e-6 * (end - start)).astype(start.dtype)
    first = jnp.maximum(first, float(jnp.finfo(start.dtype).tiny))
    rough = front.running & (end > start) & _empty(problem.equation, front.y, problem.g0)
    last = jnp.where(rough, jnp.minimum(1.0, end - start), first)
    y0 = clock.start(front.y, problem.g0)
    log = dataclasses.replace(front, t=jnp.log(first), y=y0, pace=jnp.ones_like(front.pace))
    changed: dict[str, Any] = {"steady_tol": None}  # no start is at rest
    if method.bounds(problem.equation.model) and method.price is not None:
        early = early_gradients(end - start, method.price)
        changed["patience"] = (_START + early) / _STAGES
    log = method._leg(clock, jnp.log(last), **changed).run(problem, log, adjoint)
    # one that takes too long is left to the main leg
    result = RESULTS.where(log.stiff, RESULTS.successful, log.result)
    log = dataclasses.replace(log, result=result, stiff=jnp.zeros_like(log.stiff))
    s, y = clock.at(log.t, log.y)
    s = jnp.where(log.t == jnp.log(last), start + last, s)  # undo the rounding of exp(log)
    s, y = jax.tree.map(lambda a, b: jnp.where(rough, a, b), (s, y), (start, front.y))
    return dataclasses.replace(log, t=s, y=y, pace=first_pace(s, end))


def _empty(equation: Any, y: Augmented, g: PyTree[Array]) -> Flag:
    """Whether some memory holds next to nothing of what it is about to see.

    All states of it are looked at together: one of them may pass through zero.
    """
    rates = equation.rates(0.0, y, g, direction=g).memory  # the memories' alone

    def leaf(z, rate):
        held, gained = jnp.max(jnp.abs(z), axis=0), jnp.max(jnp.abs(rate), axis=0)
        return jnp.any((held <= _EMPTY * gained) & (gained > 0))

    flags = jax.tree.leaves(jax.tree.map(leaf, y.memory, rates))
    return jnp.any(jnp.stack(flags)) if flags else jnp.zeros((), bool)


@program
def _main(
    method: Markov, problem: Problem, front: Front, adjoint: Any, by: Any, differentiated: bool
) -> Front:
    """From where the path is to its end, with an explicit method or the user's."""
    leg, front = method.main_leg(problem, front, by, differentiated)
    return leg.run(problem, front, adjoint)


@program
def _implicit(method: Markov, problem: Problem, front: Front, adjoint: Any, by: Any) -> Front:
    """From where the path became stiff to its end."""
    leg, front = method.implicit_leg(problem, front, by)
    return leg.run(problem, front, adjoint)


def _held(problem: Problem, front: Front) -> Front:
    """Where the path came to rest, its last state up to the end."""
    rests = front.result == RESULTS.steady_state

    def hold():
        at = lambda s: jax.tree.map(jnp.asarray, problem.keep(s, front.y))
        held = jax.lax.map(at, problem.ts)
        later = problem.ts > front.t
        kept = jax.tree.map(lambda a, b: rows(later, a, b), held, front.kept)
        return jax.tree.map(lambda a, b: jnp.where(rests, a, b), kept, front.kept)

    kept = jax.lax.cond(eqxi.unvmap_any(rests), hold, lambda: front.kept)
    t = jnp.where(rests, problem.ts[-1], front.t)
    return dataclasses.replace(front, t=t, kept=kept)
