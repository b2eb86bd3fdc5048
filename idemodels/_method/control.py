"""The step-size controller of `Markov`: diffrax's own, in the equation's units, with guards."""

from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._equation import Augmented
from .._kernel import Memory
from .._results import RESULTS
from .._types import Count, Flag, Scalar

# Why a leg of the path ended before its time.
NOT_STOPPED, STIFF, DIVERGED, NONFINITE, STEP_TOO_SMALL = range(5)

# What a leg that is expected to be long may spend before it is called stiff.
_PATIENCE = 40


class GuardState(eqx.Module):
    """The wrapped controller's state, and what the guards have seen."""

    pid: Any
    attempts: Count
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
    """

    rtol: Any
    atol: Any
    unit: PyTree[Array]
    limit: Scalar
    end: Scalar
    patience: int | None = eqx.field(static=True)
    norm: Callable[[PyTree[Array]], Scalar] = eqx.field(static=True)

    @property
    def pid(self) -> dfx.PIDController:
        return dfx.PIDController(self.rtol, self.atol, norm=self.norm)

    def wrap(self, direction):
        del direction  # forwards only
        return self

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        t1, pid = self.pid.init(terms, t0, t1, y0, dt0, args, func, error_order)
        zero = jnp.zeros((), int)
        return t1, GuardState(pid, zero, jnp.asarray(dt0, jnp.result_type(t0)), zero)

    def adapt_step_size(
        self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state
    ):
        finite = _all_finite(y1_candidate)
        scale = lambda tree: jax.tree.map(jnp.divide, tree, self.unit)
        y_error = jax.tree.map(lambda e: jnp.where(finite, e, jnp.inf), scale(y_error))
        before, after = scale(y0), scale(y1_candidate)
        # The error allowed grows with the state, so a step that leaps away would excuse itself.
        after = jax.tree.map(lambda a, b: jnp.minimum(abs(a), 10.0 * (abs(b) + 1.0)), after, before)
        keep, next_t0, next_t1, made_jump, pid, result = self.pid.adapt_step_size(
            t0, t1, before, after, args, y_error, error_order, controller_state.pid
        )
        made = jnp.where(keep, t1 - t0, 0.0)
        progress = 0.9 * controller_state.progress + 0.1 * made
        attempts = controller_state.attempts + 1
        reason = jnp.where(keep & (largest(y1_candidate.theta) > self.limit), DIVERGED, 0)
        smallest = 8 * jnp.finfo(jnp.result_type(t1)).eps * jnp.maximum(jnp.abs(t1), 1e-3)
        tiny = ~keep & (next_t1 - next_t0 < smallest)
        reason = jnp.where(tiny, jnp.where(finite, STEP_TOO_SMALL, NONFINITE), reason)
        if self.patience is not None:
            expected = attempts + (self.end - next_t0) / progress
            stiff = finite & (attempts > _PATIENCE) & (expected > self.patience)
            stiff = stiff | (reason == STEP_TOO_SMALL)
            reason = jnp.where(stiff & (reason != DIVERGED), STIFF, reason)
        stop = (reason != NOT_STOPPED) & (next_t0 < self.end)
        reason = jnp.where(stop, reason, NOT_STOPPED)
        # diffrax's reason only ends the loop; ours is read from the state
        result = dfx.RESULTS.where(stop, dfx.RESULTS.dt_min_reached, result)
        state = GuardState(pid, attempts, progress, reason)
        return keep, next_t0, next_t1, made_jump, state, result


def group_norm(y: PyTree[Array]) -> Scalar:
    """The largest root mean square among theta and each memory.

    Control on theta alone is optimistic by orders of magnitude: an error in a memory is an error of
    the velocity for as long as the memory lasts.
    """
    groups = [y.theta, *y.memory.values()]
    return jnp.max(jnp.stack([_rms(group) for group in groups]))


def units(y: Augmented, g: PyTree[Array], memories: dict[str, Memory], atol: float) -> Augmented:
    """What counts as one: 1 for theta; for a memory, so much that `atol` is one of the gradient.

    With a feature h the error allowed is h(atol * size of the first gradient): of a second moment
    the square, since its root divides, down to where `atol` of the gradient is too.
    """
    ones = jax.tree.map(lambda x: jnp.ones((), x.dtype), y.theta)
    overall = largest(g)
    overall = jnp.where(overall > 0, overall, 1.0)

    def size(g):
        rms = jnp.sqrt(jnp.mean(g * g))
        # a leaf whose gradient starts at zero is measured by the others
        return jnp.where(rms > 0, rms, overall)

    allowed = jax.tree.map(lambda g: atol * size(g), g)
    memory = {
        name: jax.tree.map(lambda u: jnp.abs(u) / atol, memory.of(allowed))
        for name, memory in memories.items()
    }
    return Augmented(ones, memory, y.fixed)


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


def _all_finite(tree: PyTree[Array]) -> Flag:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]))
