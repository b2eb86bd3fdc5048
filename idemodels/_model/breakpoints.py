"""Where a learning-rate schedule jumps or has a kink, looked for on the host before a solve."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import is_concrete
from .._programs import program
from .base import AbstractModel, rate_at
from .schedule import Schedule

# Samples for each optimizer step, and how many there are at least and at most: a schedule changes
# at whole steps, which so lie in the middle between two samples.
_DENSITY, _FEWEST, _MOST = 2, 64, 2**18
# A change is a jump, or a change of slope a kink, beyond so many times those beside it,
_APART = 8.0
# so many times the median, as rounding has it,
_MEDIAN = 50.0
# and so many roundings of the largest rate.
_ROUNDINGS = 1e4
# Halvings of the interval that a jump lies in, down to two neighbouring numbers: a step that ends
# before the jump must not have seen it.
_HALVINGS = 64
# More than these are no exceptions: the schedule is a staircase, and steps must follow it anyway.
LIMIT = 2048
# So much of its largest value a rate may be below zero: rounding.
_BELOW = 1e-6
# Places for them, at least: their number is a part of the program.
_PADDED = 32


def find_breakpoints(rate: Callable[[Any], Any], start: float, end: float) -> np.ndarray:
    """The steps strictly between `start` and `end` at which `rate` jumps or has a kink.

    Found from samples, of which there are two for each optimizer step: a pulse of one step is seen
    up to 131,072 steps. A jump is located by bisection, at the first number behind it; a kink where
    the straight lines from both sides meet, or at a whole step if that is near.

    **Returns:** shape `(b,)`, increasing; none where `rate` has a value that is traced, or more
    than `LIMIT` of them.

    **Raises:** `ValueError` where `rate` is NaN, infinite or negative between the two.
    """
    wanted = min(max(_DENSITY * (end - start), _FEWEST), _MOST)
    count = 2 ** int(np.ceil(np.log2(wanted)))  # few shapes, so few programs
    delta = max(1.0 / _DENSITY, (end - start) / count)
    if end - start < _FEWEST / _DENSITY:
        delta = (end - start) / count
    s = start + (np.arange(count) + 0.5) * delta
    values = _sampled(rate, s)
    if values is None:
        return np.zeros(0)
    _check_sound(values, s, end)
    values = np.nan_to_num(values)  # past the end nobody asks
    rounding = _ROUNDINGS * float(jnp.finfo(jnp.result_type(float)).eps) * np.max(np.abs(values))
    changes = np.diff(values)
    jumps = np.flatnonzero(_stands_out(changes, rounding, 0.0))
    jumps = jumps[s[jumps] < end]
    if jumps.size > LIMIT:
        return np.zeros(0)
    near_jump = np.zeros(changes.size, bool)
    for k in (-1, 0, 1):
        near_jump[np.clip(jumps + k, 0, changes.size - 1)] = True
    kinks = _kinks(s, values, near_jump, rounding)
    whole = np.round(kinks)
    kinks = np.where(np.abs(kinks - whole) < 1e-3, whole, kinks)
    found = np.unique(np.concatenate([_jumps_at(rate, s, values, jumps), kinks]))
    found = found[(found > start) & (found < end)]
    return found if found.size <= LIMIT else np.zeros(0)


def _check_sound(values: np.ndarray, s: np.ndarray, end: float) -> None:
    inside = values[(s < end) & np.isfinite(values)]
    least = -_BELOW * np.max(np.abs(inside), initial=0.0)
    bad = (s < end) & ~(np.isfinite(values) & (values >= least))
    if bad.any():
        k = int(np.argmax(bad))
        raise ValueError(
            "Argument `learning_rate` must be finite and not negative on the whole of `ts`, but is "
            f"{values[k]} at step {s[k]:.6g}."
        )


def _stands_out(x: np.ndarray, least: float, median: float) -> np.ndarray:
    """Whether each is far larger than its neighbours: all of them are taken for smooth."""
    size = np.pad(np.abs(x), 1, mode="reflect")
    beside = np.maximum(size[:-2], size[2:])
    return np.abs(x) > np.maximum(_APART * beside, least + median)


def _kinks(s: np.ndarray, values: np.ndarray, near_jump: np.ndarray, rounding: float) -> np.ndarray:
    """Where the slope changes at once, between two samples."""
    bends = np.diff(values, 2)  # bends[j] is at s[j + 1]
    # a kink between s[j + 1] and s[j + 2] is shared by bends[j] and bends[j + 1]
    pair = np.abs(bends[:-1]) + np.abs(bends[1:])
    far = np.pad(np.abs(bends), 2, mode="reflect")
    j = np.arange(pair.size)
    beside = np.maximum.reduce([far[j], far[j + 1], far[j + 4], far[j + 5]][::3])
    large = pair > np.maximum(_APART * beside, rounding + _MEDIAN * np.median(np.abs(bends)))
    # of neighbours that both are, the larger one
    padded = np.pad(pair, 1)
    large &= (pair >= padded[:-2]) & (pair > padded[2:])
    large &= ~(near_jump[j] | near_jump[j + 1] | near_jump[j + 2])
    j = np.flatnonzero(large)
    j = j[(j >= 1) & (j + 3 < s.size)]
    before = values[j + 1] - values[j], values[j + 3] - values[j + 2]
    slope = [d / (s[1] - s[0]) for d in before]
    gap = slope[0] - slope[1]
    way = (values[j + 2] - values[j + 1] - slope[1] * (s[j + 2] - s[j + 1])) / np.where(
        gap == 0, 1.0, gap
    )
    return np.clip(s[j + 1] + way, s[j + 1], s[j + 2])


def _jumps_at(rate: Any, s: np.ndarray, values: np.ndarray, jumps: np.ndarray) -> np.ndarray:
    """Each of the jumps after the samples `jumps`, by bisection."""
    if not jumps.size:
        return np.zeros(0)
    low, high, a, b = s[jumps], s[jumps + 1], values[jumps], values[jumps + 1]
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if np.all((middle == low) | (middle == high)):
            break
        # in the shape of all samples, whose program there is
        at = _sampled(rate, np.pad(middle, (0, s.size - middle.size), mode="edge"))
        assert at is not None
        at = at[: middle.size]
        right = np.abs(at - a) < np.abs(at - b)
        low, a = np.where(right, middle, low), np.where(right, at, a)
        high, b = np.where(right, high, middle), np.where(right, b, at)
    # in the precision in which the rate was asked
    return high.astype(jnp.result_type(float)).astype(np.float64)


def _sampled(rate: Callable[[Any], Any], s: np.ndarray) -> np.ndarray | None:
    """`rate` at `s`, also within a trace; `None` where it depends on what is traced."""
    if not is_concrete(rate):
        return None
    with jax.ensure_compile_time_eval():
        values = _map(rate, jnp.asarray(s, jnp.result_type(float)))
        return np.asarray(values, np.float64) if is_concrete(values) else None


@program
def _map(rate: Callable[[Any], Any], s: Any) -> Any:
    return jax.vmap(lambda s: rate_at(rate, s))(s)


def breakpoints_of(model: AbstractModel, ts: Any, told: tuple[float, ...] = ()) -> Any:
    """All that is known of where the learning rate of `model` jumps or has a kink, along `ts`.

    - `told`: more of them.

    **Returns:** shape `(b,)`, increasing, padded with infinity; `b` is 0 where the learning rate is
    a constant and nothing is told, and does not depend on the values of hyperparameters otherwise.

    **Raises:** `ValueError` where the learning rate is found to be NaN, infinite or negative.
    """
    rate, dtype = model.learning_rate, ts.dtype
    known: list[Any] = list(told)
    if callable(rate):
        found = np.zeros(0)
        if is_concrete(ts):
            first, last = float(ts[0]), float(ts[-1])
            found = find_breakpoints(rate, first, last) if last > first else found
        size = max(_PADDED, 2 ** int(np.ceil(np.log2(max(found.size, 1)))))
        found = np.pad(found, (0, size - found.size), constant_values=np.inf)
        known += [*found, *(rate.edges() if isinstance(rate, Schedule) else [])]
    if not known:
        return jnp.zeros(0, dtype)
    if is_concrete(known):
        return jnp.asarray(np.sort(np.asarray(known, np.float64)), dtype)
    return jnp.sort(jnp.stack([jax.lax.stop_gradient(jnp.asarray(b, dtype)) for b in known]))
