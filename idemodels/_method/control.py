"""The step-size controller of `Markov`: diffrax's own, in the equation's units, with guards."""

import dataclasses
from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._checks import all_finite
from .._equation import Augmented
from .._kernel import Memory
from .._results import RESULTS
from .._types import Count, Flag, Scalar

# Why a leg of the path ended before its time.
NOT_STOPPED, STIFF, DIVERGED, NONFINITE, STEP_TOO_SMALL = range(5)

# The attempts that a leg may make before it can be called stiff.
_WARM_UP = 40
# The smallest step, relative to t or 1, and how often one may be needed.
_SMALLEST, _FORCED = 1e-10, 1000


class GuardState(eqx.Module):
    """The wrapped controller's state, and what the guards have seen."""

    pid: Any
    attempts: Count
    forced: Count  # the smallest steps among them
    clamped: Count  # the accepted ones at whose end a memory is negative that must not be
    clamped_from: Scalar  # where the first of them began
    progress: Scalar  # the running mean of the way made in one attempt
    reason: Count


class Guarded(dfx.AbstractAdaptiveStepSizeController):
    """`diffrax.PIDController` on the scaled state, which stops a hopeless leg and says why.

    A controller may end a solve, and it alone sees the step's size, its error and both ends.

    - `rtol`, `atol`: tolerances, in the equation's units.
    - `unit`: like the state; the size that counts as one in each of its arrays. diffrax's `atol`
        is one number, and the square of a small gradient is far below it.
    - `limit`: |theta| beyond which the path has diverged.
    - `end`: where the leg ends.
    - `patience`: attempts that the leg may be expected to take in all before it is handed over as
        stiff; `None` never hands over.
    - `negative`: whether a state has a negative memory that must not be.
    """

    rtol: Any
    atol: Any
    unit: PyTree[Array]
    limit: Scalar
    end: Scalar
    patience: Any
    norm: Callable[[PyTree[Array]], Scalar] = eqx.field(static=True)
    negative: Callable[[Augmented], Flag]

    def wrap(self, direction):
        del direction  # forwards only
        return self

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        t1, pid = self._pid(t0).init(terms, t0, t1, y0, dt0, args, func, error_order)
        zero = jnp.zeros((), int)
        pid = (*pid[:2], jnp.zeros((), bool))
        pace = jnp.asarray(dt0, jnp.result_type(t0))
        never = jnp.full_like(pace, jnp.inf)
        return t1, GuardState(pid, zero, zero, zero, never, pace, zero)

    def adapt_step_size(
        self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state
    ):
        old = controller_state
        finite = all_finite(y1_candidate)
        scale = lambda tree: jax.tree.map(jnp.divide, tree, self.unit)
        y_error = jax.tree.map(lambda e: jnp.where(finite, e, jnp.inf), scale(y_error))
        before, after = (_by_memory(scale(y)) for y in (y0, y1_candidate))
        # The error allowed grows with the state, so a step that leaps away would excuse itself.
        after = jax.tree.map(lambda a, b: jnp.minimum(abs(a), 10.0 * (abs(b) + 1.0)), after, before)
        forced = old.pid[2]  # diffrax accepts whatever the smallest step yields
        keep, next_t0, next_t1, made_jump, pid, result = self._pid(t0).adapt_step_size(
            t0, t1, before, after, args, y_error, error_order, old.pid
        )
        keep = jnp.asarray(keep) & finite
        next_t0 = jnp.where(finite, next_t0, t0)
        progress = 0.9 * old.progress + 0.1 * jnp.where(keep, t1 - t0, 0.0)
        below = keep & self.negative(y1_candidate)
        state = GuardState(
            pid,
            old.attempts + 1,
            old.forced + jnp.where(forced, 1, 0),
            old.clamped + jnp.where(below, 1, 0),
            jnp.where(below, jnp.minimum(old.clamped_from, t0), old.clamped_from),
            progress,
            old.reason,
        )
        reason = self._reason(state, next_t0, keep, finite, forced, y1_candidate)
        # diffrax's reason only ends the loop; ours is read from the state
        result = dfx.RESULTS.where(reason > 0, dfx.RESULTS.dt_min_reached, result)
        state = eqx.tree_at(lambda state: state.reason, state, reason)
        return keep, next_t0, next_t1, made_jump, state, result

    def _pid(self, t: Any) -> dfx.PIDController:
        """The wrapped controller. Its smallest step carries the path over a kink of the gradient.

        There no step is small enough for the tolerance in a second moment that starts from zero.
        """
        dtype = jnp.result_type(t)
        size = jnp.maximum(jnp.abs(t), 1.0)
        smallest = max(_SMALLEST, 64 * float(jnp.finfo(dtype).eps)) * size
        return dfx.PIDController(self.rtol, self.atol, norm=self.norm, dtmin=smallest)

    def _reason(
        self, state: GuardState, t: Any, keep: Flag, finite: Flag, forced: Flag, y1: Augmented
    ) -> Count:
        """Why to stop, if so."""
        reason = jnp.where(state.forced > _FORCED, STEP_TOO_SMALL, NOT_STOPPED)
        if self.patience is not None:
            attempts = state.attempts.astype(state.progress.dtype)
            expected = attempts + (self.end - t) / state.progress
            stiff = (attempts > _WARM_UP) & (expected > self.patience)
            reason = jnp.where(stiff | (reason == STEP_TOO_SMALL), STIFF, reason)
        reason = jnp.where(t < self.end, reason, NOT_STOPPED)
        reason = jnp.where(keep & (largest(y1.theta) > self.limit), DIVERGED, reason)
        return jnp.where(finite, reason, jnp.where(forced, NONFINITE, NOT_STOPPED))


def _by_memory(y: Augmented) -> Augmented:
    """Each state of a memory as large as the largest of them.

    They are read together: one that passes through zero may be wrong by as much as the others.
    """
    largest_state = lambda z: jnp.broadcast_to(jnp.max(jnp.abs(z), axis=0, keepdims=True), z.shape)
    return dataclasses.replace(y, memory=jax.tree.map(largest_state, y.memory))


def group_norm(y: PyTree[Array]) -> Scalar:
    """The largest root mean square among theta and each memory.

    Control on theta alone is optimistic by orders of magnitude: an error in a memory is an error of
    the velocity for as long as the memory lasts.
    """
    groups = [y.theta, *y.memory.values()] + ([] if y.velocity is None else [y.velocity])
    return jnp.max(jnp.stack([_rms(group) for group in groups]))


def units(
    y: Augmented, g: PyTree[Array], memories: dict[str, Memory], atol: float, strict: bool
) -> Augmented:
    """What counts as one: 1 for theta and its velocity; for a memory, its feature h at first.

    So `atol * h(g)` of it may be wrong. Where `strict`, only `h(atol * g)`: of a second moment the
    square, since its root divides, so that it is known even after g has faded to `atol` of its
    first size. A gradient with kinks does not allow that.
    """
    ones = jax.tree.map(lambda x: jnp.ones((), x.dtype), y.theta)
    overall = largest(g)
    overall = jnp.where(overall > 0, overall, 1.0)

    def size(g):
        rms = jnp.sqrt(jnp.mean(g * g))
        # a leaf whose gradient starts at zero is measured by the others
        return jnp.where(rms > 0, rms, overall)

    factor = atol if strict else 1.0
    features = {
        name: memory.of(jax.tree.map(lambda g: factor * size(g), g))
        for name, memory in memories.items()
    }
    memory = jax.tree.map(lambda u: jnp.abs(u) / factor, features)
    return Augmented(ones, memory, y.fixed, None if y.velocity is None else ones)


class BelowZero(eqx.Module):
    """Whether a state has a negative memory that must not be, by more than the tolerance."""

    names: tuple[str, ...] = eqx.field(static=True)
    memories: dict[str, Memory]
    unit: Augmented
    atol: float

    def __call__(self, y: Augmented) -> Flag:
        below = jnp.zeros((), bool)
        for name in self.names:
            moment = self.memories[name].markov.read(y.memory[name])
            for v, unit in zip(
                *map(jax.tree.leaves, (moment, self.unit.memory[name])), strict=True
            ):
                below = below | jnp.any(v < -10.0 * self.atol * unit)
        return below


def to_result(reason: Count, result: Any) -> Any:
    """A leg's end as one of `RESULTS`: ours where a guard stopped it, else diffrax's."""
    result = RESULTS.promote(result)
    for code, name in (
        (DIVERGED, "diverged"),
        (NONFINITE, "nonfinite_gradient"),
        (STEP_TOO_SMALL, "step_too_small"),
    ):
        result = RESULTS.where(reason == code, getattr(RESULTS, name), result)
    return result


def _rms(tree: PyTree[Array]) -> Scalar:
    leaves = jax.tree.leaves(tree)
    total = sum(jnp.sum(jnp.square(x)) for x in leaves)
    mean = total / sum(x.size for x in leaves)
    positive = mean > 0  # a derivative of the root at 0 would be NaN
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, mean, 1.0)), 0.0)


def largest(tree: PyTree[Array]) -> Scalar:
    """The largest absolute value in `tree`."""
    return jnp.max(jnp.stack([jnp.max(jnp.abs(x), initial=0) for x in jax.tree.leaves(tree)]))
