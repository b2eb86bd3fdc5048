"""Where a schedule jumps or has a kink, and how short steps must be to see it swing."""

import numpy as np
from jaxtyping import Bool, Float

from .course import FINE

# A fourth difference is a kink's where it is so many times those on both sides of it. On a sine of
# three steps it is 4 times them.
_SHARP = 10.0
# The part of it that the second difference has beside its neighbours: a half or more where the
# slope jumps, a third where the value does, nothing where the curvature does.
_BENT = 0.2
# What counts, of the values near by and of the largest.
_NEAR, _LARGEST = 1e-6, 1e-9
# Roundings that an evaluation may have.
_ROUNDINGS = 64.0
# The longest step on a half-wave, as a part of it, and the shortest of these steps.
_PART, _SHORTEST = 0.5, 0.25
# How fast they grow away from it: where a burst rises and falls there is no half-wave yet.
_TAIL = 0.5


def kinks_in(
    values: Float[np.ndarray, "n f"], first: int, eps: float
) -> tuple[list[int], list[int]]:
    """The steps k so that a schedule is not smooth somewhere after k - 1, up to k.

    **Arguments:**

    - `values`: of schedules, `FINE` for each step.
    - `first`: the step of the first of them.
    - `eps`: of their precision.

    **Returns:** those where a value or a slope jumps, and those where but a curvature does.
    """
    kinks, bends = np.zeros((2, max(len(values), 1)), bool)
    for f in values.T:
        rough, sharp = _rough(f, first, eps)
        kinks |= rough & sharp
        bends |= rough & ~sharp
    return _steps_of(kinks, first), _steps_of(bends, first)


def _steps_of(found: Bool[np.ndarray, " n"], first: int) -> list[int]:
    # a kink in the value at a sample stands there and at the next
    at = np.flatnonzero(found & ~np.concatenate([[False], found[:-1]]))
    return sorted({int(k) for k in first + np.ceil(at / FINE)})


def _rough(
    f: Float[np.ndarray, " n"], first: int, eps: float
) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Whether something jumps between a sample and that before it, or at one of them.

    And whether it is no curvature.
    """
    rough, sharp = np.zeros((2, len(f)), bool)
    if len(f) < 15:
        return rough, sharp
    f = np.where(np.isfinite(f), f, np.nan)
    largest = np.nanmax(np.abs(f), initial=0.0)
    second = np.diff(f, 2)
    fourth = np.abs(np.diff(f, 4))
    j = np.arange(7, len(f) - 6)

    def stack(x, offsets):
        return np.stack([x[j + i] for i in offsets])

    near = np.max(np.abs(stack(f, range(-7, 7))), axis=0)
    sides = np.abs(np.stack([f[j - 1] - f[j - 2], f[j + 1] - f[j]]))
    x = first + j / FINE
    noise = _ROUNDINGS * eps * (largest + x * FINE * np.max(sides, axis=0))
    most = np.max(stack(fourth, range(-4, 0)), axis=0)
    beside = np.max(np.stack([*stack(fourth, range(-7, -4)), *stack(fourth, range(3))]), axis=0)
    around = np.stack([*stack(second, range(-5, -2)), *stack(second, range(3))])
    here = stack(second, (-2, -1))
    bent = np.max(np.maximum(here - np.max(around, axis=0), np.min(around, axis=0) - here), axis=0)
    counts = most > np.maximum(np.maximum(_NEAR * near, _LARGEST * largest), noise)
    rough[j], sharp[j] = counts & (most > _SHARP * beside), bent > _BENT * most
    return rough, sharp


def paces_of(
    values: Float[np.ndarray, "n f"], first: int, kinks: list[int], eps: float
) -> Float[np.ndarray, " k"]:
    """How long a solver's step may be from each step on, so that no swing is stepped over.

    Infinite where there is none. A half-wave lies between two points of inflection, which are
    looked for at distances of 1/4, 1/2, 1, 2, ... steps; a kink ends the look.
    """
    steps = max((len(values) - 1) // FINE, 0)
    longest = np.full(steps + 1, np.inf)
    inside = [k - first for k in kinks if first < k <= first + steps]
    begins, ends = [0, *inside], [*(k - 1 for k in inside), steps]
    for f in values.T:
        largest = np.max(np.abs(f[np.isfinite(f)]), initial=0.0)
        for begin, end in zip(begins, ends, strict=True):
            part = f[begin * FINE : end * FINE + 1]
            stride = FINE // 4
            while len(part) >= 4 * stride:
                floor = _LARGEST * largest
                _bound(longest, part[::stride], first, begin, stride / FINE, eps, largest, floor)
                stride *= 2
    return coned(longest, _TAIL)


def _bound(
    longest: Float[np.ndarray, " k"],
    f: Float[np.ndarray, " n"],
    first: int,
    begin: int,
    gap: float,
    eps: float,
    largest: float,
    floor: float,
) -> None:
    """Bounds steps by the half-waves in samples that are `gap` steps apart."""
    bent = np.diff(f, 2)
    slope = np.maximum(np.abs(f[1:-1] - f[:-2]), np.abs(f[2:] - f[1:-1])) / gap
    at = begin + gap * np.arange(1, len(f) - 1)
    noise = _ROUNDINGS * eps * (largest + (first + at) * slope)
    clear = np.flatnonzero(np.abs(bent) > np.maximum(noise, floor))
    turns = np.flatnonzero(np.diff(np.sign(bent[clear])) != 0)
    if turns.size < 2:
        return
    turns = (at[clear[turns]] + at[clear[turns + 1]]) / 2
    waves = _PART * np.diff(turns)
    for at in (np.arange(len(longest)), np.arange(1, len(longest) + 1)):
        wave = np.searchsorted(turns, at, "right") - 1
        on = (wave >= 0) & (wave < waves.size)
        longest[on] = np.minimum(longest[on], waves[wave[on]])


def coned(longest: Float[np.ndarray, " k"], slope: float = 1.0) -> Float[np.ndarray, " k"]:
    """The same, growing by no more than `slope` a step ahead of and past where they are short.

    With 1 a step leads no further into what is ahead than may be stepped there.
    """
    rise = slope * np.arange(len(longest))
    ahead = np.minimum.accumulate((longest + rise)[::-1])[::-1] - rise
    past = np.minimum.accumulate(longest - rise) + rise
    return np.maximum(np.minimum(ahead, past), _SHORTEST)
