"""The step-size controller of `Markov`: diffrax's own, in the equation's units, with guards."""

import dataclasses
from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._equation import Augmented
from .._kernel import Memory
from .._programs import traced_once
from .._results import RESULTS
from .._types import Count, Flag, Scalar
from .kick_drift import is_short, not_short
from .longest import LongestStep
from .norms import by_memory, largest
from .reporting import Reported
from .steady import Steady, Watch

# Why a leg of the path ended before its time.
NOT_STOPPED, STIFF, DIVERGED, NONFINITE, STEP_TOO_SMALL, STEADY, BAD_RATE = range(7)

# The attempts that a leg may make before it can be called stiff.
WARM_UP = 40
# A pace that has risen by this factor within some fifty attempts is growing.
_GROWING = 1.2
# A path that may come to rest is expected to within the time it has taken, or so many steps.
_SOON = 100.0
# Of a scaled error; its square is finite in single precision too.
_LARGEST = 1e15
# The first attempts are short, and the range of theta small: its bound waits for so many of them.
_SETTLED = 12
# The way that the smallest step may make, of the range so far, where it is at most this part of the
# time so far: beyond, it is no path. Early a path makes its range in such steps.
_LEAP = 1e-2
# The smallest step, relative to t or 1, and how often one may be needed.
_SMALLEST, _FORCED = 1e-10, 1000
# Early a path is resolved by the smallest step too, if that is off by so many tolerances at most.
_OVER = 10.0
# Gradients that a leg may take. At once: so many, or so many for each optimizer step to its end and
# what short steps would leave of the price, less a margin and so many. For each step made: the
# rest, but for the margin. Beyond, no step is shorter than the short ones, which are accepted
# whatever their error. With attempts at longer ones they take so many gradients a step.
_ALLOWANCE, _EARLY, _SPARE, _MARGIN, _OF_SHORT = 120, 1.0, 30, 0.1, 2.05
# Past the last short step the next is at least this part of it.
_AFTER = 0.2
# After a step that failed so many short ones are made at most before another is tried.
_LONGEST_STAY = 64
# So many failures nearby are no chance. A start anew is of order 1, which tight tolerances, where
# the price has no bound, would pay for again and again.
_KINK = 5


def early_gradients(steps: Scalar, price: float) -> Scalar:
    """How many gradients may be taken at once, on a path of so many optimizer steps."""
    return jnp.maximum(_ALLOWANCE, _early(price) * steps - _SPARE)


def _early(price: float) -> float:
    return min(_EARLY, price - _MARGIN - _OF_SHORT)


class GuardState(eqx.Module):
    """The wrapped controller's state, and what the guards have seen."""

    pid: Any
    attempts: Count
    gradients: Count  # those that the solver reported
    forced: Count  # attempts with the smallest step
    clamped: Count  # accepted steps at whose end a memory is negative that must not be
    clamped_from: Scalar  # where the first of them began
    jumps: Count  # accepted steps that end before a jump
    error_sum: Scalar  # of accepted steps, in theta, as far as errors do not cancel
    progress: Scalar  # the running mean of the way made in one attempt
    slower: Scalar  # the same over more attempts
    size: Scalar  # the largest |theta| where the path is
    range: Scalar  # of theta so far, where a step is bounded by it
    start: Scalar  # where the leg began
    proposed: Scalar  # the next step
    spent: Count  # gradients, since the leg began
    unresolved: Scalar  # optimizer steps in steps that the tolerance would not allow
    stay: Count  # short steps to be made before a longer one is tried
    penalty: Count  # how many there will be if that fails
    failures: Count  # attempts that failed, less the steps that were kept since
    kinked: Flag  # whether the path ever began anew
    unsolved: Count  # attempts without a solution, or a finite error
    watch: Watch | None
    reason: Count


class Guarded(dfx.AbstractAdaptiveStepSizeController):
    """`diffrax.PIDController` on the scaled state, which stops a hopeless leg and says why.

    A controller may end a solve, and it alone sees the step's size, its error and both ends.

    - `rtol`, `atol`: tolerances, in the equation's units.
    - `unit`: like the state; the size that counts as one in each of its arrays. diffrax's `atol`
        is one number, and the square of a small gradient is far below it.
    - `limit`: |theta| beyond which the path has diverged.
    - `end`: where the leg does.
    - `patience`: attempts that the leg may be expected to take in all before it is handed over as
        stiff; `None` never hands over.
    - `warm_up`: attempts that it may make before anything is expected of them.
    - `negative`: whether a state has a negative memory that must not be.
    - `steady`: whether the path has come to rest; `None` never looks.
    - `jumps`: times to which it steps, since the right-hand side is not smooth there; `None` has
        none.
    - `longest`: how long a step may be, where the leg's time is s; `None` does not say.
    - `rests`: whether it may come to rest before the end.
    - `short`: the length of a step that is accepted where shorter ones would be too many; `None`
        goes on to the smallest there are.
    - `price`: the gradients for each optimizer step that a leg with short steps takes at most.
    - `spent`: the gradients of the legs before it that count.
    - `remains`: what part of the errors that steps report, added up, does not cancel; those at a
        kink and of short steps do not.
    - `by_range`: whether theta's error is allowed to be a part of its range, and not of itself.
    - `expected`: how far theta may be expected to go, from a step's ends and its way.
    - `origin`: theta where the path began.
    - `growth`: of a step over the one before it, at most.
    - `proportional`, `integral`: coefficients of diffrax's controller, whose defaults they are.
    """

    rtol: Any
    atol: Any
    unit: PyTree[Array]
    limit: Scalar
    end: Scalar
    patience: Any
    norm: Callable[[PyTree[Array]], Scalar] = eqx.field(static=True)
    negative: Callable[[Augmented], Flag]
    expected: Callable[[Any, Any, Scalar], Scalar]
    origin: PyTree[Array]
    short: float | None = eqx.field(static=True, default=None)
    price: float = eqx.field(static=True, default=4.0)
    spent: Any = 0
    by_range: bool = eqx.field(static=True, default=False)
    remains: float = eqx.field(static=True, default=1.0)
    steady: Steady | None = None
    jumps: Float[Array, " b"] | None = None
    longest: LongestStep | None = None
    rests: bool = False
    warm_up: int = WARM_UP
    growth: float = 10.0
    proportional: float = 0.0
    integral: float = 1.0

    def forget_counts(self, state: GuardState) -> GuardState:
        """The state with those counts at 0 that a leg adds up itself."""
        zero = jnp.zeros((), int)
        state = dataclasses.replace(state, gradients=zero, clamped=zero, jumps=zero)
        state = dataclasses.replace(state, error_sum=jnp.zeros_like(state.error_sum))
        if state.watch is None:
            return state
        return dataclasses.replace(state, watch=dataclasses.replace(state.watch, looks=zero))

    def wrap(self, direction):
        del direction  # forwards only
        return self

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        y0 = jax.lax.stop_gradient(y0)  # steps carry no derivative
        t1, pid = self._pid(t0).init(terms, t0, t1, y0, dt0, args, func, error_order)
        zero = jnp.zeros((), int)
        pid = eqx.tree_at(_forced, pid, jnp.zeros((), bool))
        t1, sound = self._within(jnp.asarray(t0), t1)
        pace = jnp.asarray(dt0, jnp.result_type(t0))
        never = jnp.full_like(pace, jnp.inf)
        watch = None if self.steady is None else self.steady.begin(t0, y0)
        size = largest(y0.theta)
        start = jnp.asarray(t0, pace.dtype)
        return t1, GuardState(
            pid=pid,
            attempts=zero,
            gradients=zero,
            forced=zero,
            clamped=zero,
            clamped_from=never,
            jumps=zero,
            error_sum=jnp.zeros_like(size),
            progress=pace,
            slower=pace,
            size=size,
            range=self._range(y0),
            start=start,
            proposed=pace,
            spent=jnp.asarray(self.spent, int),
            unresolved=jnp.zeros_like(pace),
            stay=zero,
            penalty=zero,
            failures=zero,
            kinked=jnp.zeros((), bool),
            unsolved=zero,
            watch=watch,
            reason=jnp.where(sound, NOT_STOPPED, BAD_RATE),
        )

    @traced_once
    def adapt_step_size(
        self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state
    ):
        old = controller_state
        taken, of_tangent = jnp.zeros((), int), 0.0
        if isinstance(y_error, Reported):
            taken, of_tangent = jnp.asarray(y_error.gradients, int), y_error.tangent
            y_error = y_error.error
        held = jax.lax.stop_gradient((y0, y1_candidate, y_error, of_tangent))
        y0, y1_candidate, y_error, of_tangent = held
        error = largest(y_error.theta)  # pyright: ignore[reportOptionalMemberAccess]
        way = largest(jax.tree.map(jnp.subtract, y1_candidate.theta, y0.theta))
        reach = jnp.maximum(old.range, self.expected(t0, t1, way))
        reach = jnp.where(jnp.isfinite(reach), reach, old.range)
        scaled = self._scaled(y_error, y0, y1_candidate, reach)
        scaled = jnp.maximum(scaled, jnp.asarray(of_tangent, scaled.dtype))
        finite = jnp.isfinite(scaled)
        before, spent = old.pid, old.spent + taken
        least, no = None, jnp.zeros((), bool)
        brief, poor, broke = no, no, no
        if self.short is not None:
            brief = is_short(t1 - t0, self.short)
            early = early_gradients(self.end - old.start, self.price)
            later = self.price - _MARGIN - _early(self.price)
            allowed = early + later * (t0 - old.start)
            poor = spent.astype(allowed.dtype) > allowed
            least = jnp.where(poor, self.short, 0.0)
            left = self.price * (self.end - old.start) - spent.astype(allowed.dtype)
            broke = _OF_SHORT * (self.end - t0) > left
            # else it would be made again, after an attempt that is the same
            before = eqx.tree_at(_forced, before, _forced(before) | (poor & brief))
        forced = _forced(before)  # diffrax accepts whatever the smallest step yields
        nothing = jnp.zeros_like(scaled)
        keep, next_t0, next_t1, made_jump, pid, result = self._pid(t0, least).adapt_step_size(
            t0, t1, nothing, nothing, args, scaled, error_order, before
        )
        # but not a leap, which the smallest step does not make where there is a path
        late = t1 - t0 <= _LEAP * (t0 - old.start)
        size = largest(y1_candidate.theta)
        leaps = size > 10.0 * (old.size + 1.0)
        if self.by_range:
            leaps = leaps | ((way > _LEAP * old.range) & (old.range > 0) & late)
        # where the price is spent, the smallest is a short one, or what is left up to the end
        leaps = leaps & forced & (t1 - t0 <= 2.0 * self._smallest(t0)) & finite
        sound = finite & ~leaps
        keep = jnp.asarray(keep) & sound
        next_t0 = jnp.where(sound, next_t0, t0)
        reach = jnp.where(keep, jnp.maximum(old.range, self._range(y1_candidate)), old.range)
        lost, counts = leaps, self.remains
        stay, penalty, failures, kinked = old.stay, old.penalty, old.failures, old.kinked
        if self.short is not None:
            lost = jnp.zeros((), bool)  # a short step is made in its place, and kept
            pid = eqx.tree_at(_forced, pid, _forced(pid) | leaps)
            failures, anew = _met_kink(old, keep)
            made_jump, kinked = made_jump | anew, kinked | anew
            counts = jnp.where(anew | brief, 1.0, self.remains)
            stay, penalty = _stays(old, keep, brief, ~brief & ~keep & (poor | leaps), broke)
        if self.longest is not None:
            pace = jnp.where(keep & (old.attempts >= _SETTLED), way / (t1 - t0), 0.0)
            next_t1 = self.longest.by_way(next_t0, next_t1, pace, reach)
        if self.short is not None:
            h = next_t1 - next_t0
            # past a short step that was kept whatever its error diffrax goes on with the smallest
            h = jnp.where(forced & brief, jnp.maximum(h, _AFTER * self.short), h)
            small = (h <= self.short) | is_short(h, self.short)
            stays = (poor & ((stay > 0) | small)) | leaps
            h = jnp.where(stays, self.short, not_short(h, self.short)).astype(h.dtype)
            next_t1 = next_t0 + h
        next_t1, has_rate = self._within(next_t0, next_t1)
        made = jnp.where(keep, t1 - t0, 0.0)
        progress, slower = 0.9 * old.progress + 0.1 * made, 0.98 * old.slower + 0.02 * made
        below = keep & self.negative(y1_candidate)
        watch, rests = old.watch, jnp.zeros((), bool)
        if self.steady is not None:
            watch, rests = self.steady(watch, y0, t1, y1_candidate, keep)
        wrong = jnp.where(jnp.isfinite(error), error, way) * counts
        # the error of a short step does not see a kink
        over = (scaled > jnp.where(brief | late, 1.0, _OVER)) | (brief & kinked)
        state = GuardState(
            pid=pid,
            attempts=old.attempts + 1,
            gradients=old.gradients + taken,
            forced=old.forced + jnp.where(forced & ~(brief & poor), 1, 0),
            clamped=old.clamped + jnp.where(below, 1, 0),
            clamped_from=jnp.where(below, jnp.minimum(old.clamped_from, t0), old.clamped_from),
            jumps=old.jumps + jnp.where(keep & made_jump, 1, 0),
            error_sum=old.error_sum + jnp.where(keep, wrong, 0.0),
            progress=progress,
            slower=slower,
            size=jnp.where(keep, size, old.size),
            range=reach,
            start=old.start,
            proposed=jnp.asarray(next_t1 - next_t0, old.proposed.dtype),
            spent=spent,
            unresolved=old.unresolved + jnp.where(keep & over, t1 - t0, 0.0),
            stay=stay,
            penalty=penalty,
            failures=failures,
            kinked=kinked,
            unsolved=old.unsolved + jnp.where(scaled >= _LARGEST, 1, 0),
            watch=watch,
            reason=old.reason,
        )
        reason = self._reason(state, next_t0, keep, finite, forced)
        reason = jnp.where(rests, STEADY, jnp.where(lost, STEP_TOO_SMALL, reason))
        bad = ~has_rate & (next_t0 < self.end) | (old.reason == BAD_RATE)
        reason = jnp.where(bad, BAD_RATE, reason)
        # diffrax's reason only ends the loop; ours is read from the state
        result = dfx.RESULTS.where(reason > 0, dfx.RESULTS.dt_min_reached, result)
        state = eqx.tree_at(lambda state: state.reason, state, reason)
        return keep, next_t0, next_t1, made_jump, state, result

    def _within(self, t0: Any, t1: Any) -> tuple[Any, Flag]:
        """The end of a step that is not too long; and whether the learning rate is finite in it."""
        if self.longest is None:
            return t1, jnp.ones((), bool)
        end = jnp.minimum(t1, self.end)
        h, sound = self.longest(t0, jnp.maximum(end - t0, 0.0))
        return jnp.where(h < end - t0, t0 + h, t1), sound

    def _range(self, y: Augmented) -> Scalar:
        """The largest distance of any parameter from where the path began."""
        return largest(jax.tree.map(jnp.subtract, y.theta, self.origin))

    def _smallest(self, t: Any) -> Scalar:
        relative = max(_SMALLEST, 64 * float(jnp.finfo(jnp.result_type(t)).eps))
        return relative * jnp.maximum(jnp.abs(t), 1.0)

    def _pid(self, t: Any, least: Any = None) -> dfx.ClipStepSizeController:
        """The wrapped controller. Its smallest step carries the path over a kink of the gradient.

        There no step is small enough for the tolerance in a second moment that starts from zero.

        - `least`: how small it may not be.
        """
        smallest = self._smallest(t)
        if least is not None:
            smallest = jnp.maximum(smallest, least.astype(smallest.dtype))
        # the error that it sees is the scaled one
        controller = dfx.PIDController(
            0.0,
            1.0,
            pcoeff=self.proportional,
            icoeff=self.integral,
            norm=jnp.abs,
            dtmin=smallest,
            factormax=self.growth,
        )
        return dfx.ClipStepSizeController(controller, jump_ts=self.jumps)

    def _scaled(self, error: Any, y0: Augmented, y1: Augmented, reach: Scalar) -> Scalar:
        """The size of a step's error, 1 where it is as allowed; not finite where `y1` is not.

        - `reach`: of theta, whose error is allowed to be a part of it.
        """

        def of_theta(e, x, y1):
            rounding = 4.0 * jnp.finfo(x.dtype).eps * jnp.abs(x)
            scaled = e / (self.atol + self.rtol * reach + rounding)
            return jnp.where(jnp.isfinite(y1), jnp.minimum(jnp.abs(scaled), _LARGEST), jnp.inf)

        def leaf(e, before, after, y1, unit):
            before, after = before / unit, after / unit
            # The error allowed grows with the state: a step that leaps away would excuse itself.
            after = jnp.minimum(after, 10.0 * (before + 1.0))
            scaled = (e / unit) / (self.atol + self.rtol * jnp.maximum(before, after))
            # however large, it is finite
            return jnp.where(jnp.isfinite(y1), jnp.minimum(jnp.abs(scaled), _LARGEST), jnp.inf)

        sizes = by_memory(y0), by_memory(y1)
        scaled = jax.tree.map(leaf, error, *sizes, y1, self.unit)
        if self.by_range:
            theta = jax.tree.map(of_theta, error.theta, y0.theta, y1.theta)
            scaled = dataclasses.replace(scaled, theta=theta)
        return self.norm(scaled)

    def _reason(self, state: GuardState, t: Any, keep: Flag, finite: Flag, forced: Flag) -> Count:
        """Why to stop, if so."""
        reason = jnp.where(state.forced > _FORCED, STEP_TOO_SMALL, NOT_STOPPED)
        if self.patience is not None:
            attempts = state.attempts.astype(state.progress.dtype)
            expected = attempts + self._expected(state, t)
            stiff = (attempts > self.warm_up) & (expected > self.patience)
            reason = jnp.where(stiff | (reason == STEP_TOO_SMALL), STIFF, reason)
        reason = jnp.where(t < self.end, reason, NOT_STOPPED)
        reason = jnp.where(keep & (state.size > self.limit), DIVERGED, reason)
        return jnp.where(finite, reason, jnp.where(forced, NONFINITE, NOT_STOPPED))

    def _expected(self, state: GuardState, t: Any) -> Scalar:
        """The attempts still to be made at the present pace; where it grows, as it grows with t."""
        grows = (state.progress > _GROWING * state.slower) & (t > 0)
        ahead = jnp.maximum(self.end - t, 0.0)
        if self.rests:  # perhaps long before the end
            ahead = jnp.minimum(ahead, jnp.maximum(t - state.start, _SOON))
        since = jnp.where(grows, t, 1.0)
        in_proportion = jnp.log1p(ahead / since) / jnp.log1p(state.progress / since)
        # a kink of the gradient takes some dozens of tiny steps, and is no stiffness
        pace = jnp.maximum(state.progress, state.slower)
        return jnp.where(grows, in_proportion, ahead / pace)


def _met_kink(old: GuardState, keep: Flag) -> tuple[Count, Flag]:
    """The failures nearby, and whether what lies before this step's end foretells nothing."""
    kink = keep & (old.failures >= _KINK) & (old.range > 0)
    failures = jnp.where(keep, jnp.maximum(old.failures - 1, 0), old.failures + 1)
    return jnp.where(kink | (keep & (old.range == 0)), 0, failures), kink


def _stays(
    old: GuardState, keep: Flag, brief: Flag, failed: Flag, broke: Flag
) -> tuple[Count, Count]:
    """How many short steps are to be made, and how many there will be where the next one fails."""
    penalty = jnp.where(failed, jnp.minimum(2 * old.penalty + 1, _LONGEST_STAY), old.penalty)
    penalty = jnp.where(keep & ~brief, penalty // 2, penalty)
    penalty = jnp.where(broke, _LONGEST_STAY, penalty)
    made = jnp.where(keep, jnp.maximum(old.stay - 1, 0), old.stay)
    return jnp.where(failed, penalty, made), penalty


def _forced(pid: Any) -> Any:
    """Of the wrapped controllers' state: whether the step is the smallest there is."""
    return pid.inner_state[2]


class BelowZero(eqx.Module):
    """Whether a state has a negative memory that must not be, by more than the tolerance."""

    names: tuple[str, ...] = eqx.field(static=True)
    memories: dict[str, Memory]
    unit: Augmented
    atol: Any

    def __call__(self, y: Augmented) -> Flag:
        below = jnp.zeros((), bool)
        for name in self.names:
            moment = self.memories[name].markov.read(y.memory[name])
            for v, unit in zip(
                *map(jax.tree.leaves, (moment, self.unit.memory[name])), strict=True
            ):
                unit = jnp.broadcast_to(unit, (1, *v.shape))[0]
                below = below | jnp.any(v < -10.0 * self.atol * unit)
        return below


def to_result(reason: Count, result: Any) -> Any:
    """A leg's end as one of `RESULTS`: ours where a guard stopped it, else diffrax's."""
    result = RESULTS.promote(result)
    for code, name in (
        (DIVERGED, "diverged"),
        (NONFINITE, "nonfinite_gradient"),
        (STEP_TOO_SMALL, "step_too_small"),
        (BAD_RATE, "nonfinite_rate"),
        (STEADY, "steady_state"),
    ):
        result = RESULTS.where(reason == code, getattr(RESULTS, name), result)
    return result
