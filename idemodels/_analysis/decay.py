"""A decay towards a floor."""

from typing import NamedTuple

import numpy as np

# Rates that are tried first.
_GRID = 400
# Times are sums of learning rates: so near to a limit, in parts of the closest two, they are on it.
_ROUNDING = 0.1


class Decay(NamedTuple):
    r"""$A e^{-\omega (t - t_0)} + B$, where $t_0$ is the first time of the data."""

    amplitude: float
    rate: float
    floor: float

    def at(self, t: np.ndarray) -> np.ndarray:
        """Its values at `t`, shape `(n,)`, of which the first is $t_0$."""
        return self.amplitude * np.exp(-self.rate * (t - t[0])) + self.floor


def fit_decay(t: np.ndarray, y: np.ndarray) -> Decay:
    r"""The decay nearest to data, by least squares; neither $A$ nor $B$ is negative.

    Variable projection (Golub & Pereyra 1973, doi:10.1137/0710036): for each rate the amplitude and
    the floor follow from a linear problem; what is left is a search in one dimension.

    **Arguments:**

    - `t`, `y`: shape `(n,)`, n at least 4, `t` increasing, `y` not negative.

    **Raises:** `ValueError` for data that are not so.
    """
    from scipy.optimize import minimize_scalar

    t, y = _checked(t, y)
    # from one that loses a tenth on the way to one that is over before the second point
    rates = np.geomspace(0.1 / (t[-1] - t[0]), 5.0 / (t[1] - t[0]), _GRID)
    badness = lambda rate: float(np.sum((_project(rate, t, y).at(t) - y) ** 2))
    best = int(np.argmin([badness(rate) for rate in rates]))
    around = np.log([rates[max(best - 1, 0)], rates[min(best + 1, _GRID - 1)]])
    found = minimize_scalar(
        lambda log: badness(np.exp(log)), bounds=around, method="bounded", options={"xatol": 1e-12}
    )
    return _project(np.exp(found.x), t, y)


def bound_decay(t: np.ndarray, y: np.ndarray, tail: float) -> Decay:
    r"""A decay above data: $B$ is their largest value in the last `tail` of `t`.

    The rate is the slope of $\ln(y - B)$ before, by least squares, and $A$ the least with which the
    curve is nowhere below the data, as the authors of arXiv:2602.09101 do it; both are NaN where
    fewer than two points lie above $B$ before.

    **Arguments:**

    - `t`, `y`: shape `(n,)`, n at least 4, `t` increasing, `y` not negative.

    **Raises:** `ValueError` for data that are not so.
    """
    t, y = _checked(t, y)
    last = since(t, t[-1] - tail)
    floor = float(np.max(y[last]))
    above = ~last & (y > floor)
    if np.count_nonzero(above) < 2:
        return Decay(np.nan, np.nan, floor)
    rate = -float(np.polyfit(t[above], np.log(y[above] - floor), 1)[0])
    needed = np.maximum(y - floor, 0.0) * np.exp(rate * (t - t[0]))
    return Decay(float(np.max(needed)), rate, floor)


def envelope(t: np.ndarray, y: np.ndarray, width: float) -> np.ndarray:
    """The largest `y` over the last `width` of `t`, at every one of them: hides oscillation."""
    t = np.asarray(t, float)
    first = np.searchsorted(t, t - width - _rounding(t))
    return np.array([y[i : j + 1].max() for j, i in enumerate(first)])


def since(t: np.ndarray, start: float) -> np.ndarray:
    """Which of the times `t` are `start` or later, but for rounding, shape `(n,)`.

    **Arguments:**

    - `t`: shape `(n,)`, increasing.
    """
    return t >= start - _rounding(t)


def _rounding(t: np.ndarray) -> float:
    """How far two times may be apart and still be meant as the same."""
    return _ROUNDING * float(np.min(np.diff(t))) if len(t) > 1 else 0.0


def _checked(t: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    t, y = np.asarray(t, float), np.asarray(y, float)
    if t.size < 4 or np.any(np.diff(t) <= 0):
        raise ValueError(f"Argument `t` must increase over 4 points or more, but has {t.size}.")
    if not np.all(y >= 0):
        raise ValueError(f"Argument `y` must not be negative, but has {y[~(y >= 0)][0]}.")
    return t, y


def _project(rate: float, t: np.ndarray, y: np.ndarray) -> Decay:
    """The best amplitude and floor for a rate; where one would be negative it is zero."""
    falling = np.exp(-rate * (t - t[0]))
    amplitude, floor = np.linalg.lstsq(np.stack([falling, np.ones_like(t)], axis=1), y)[0]
    if floor < 0:
        amplitude, floor = (falling @ y) / (falling @ falling), 0.0
    if amplitude < 0:
        amplitude, floor = 0.0, np.mean(y)
    return Decay(float(amplitude), float(rate), float(floor))
