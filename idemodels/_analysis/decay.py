"""A decay towards a floor."""

from typing import NamedTuple

import numpy as np

# Rates that are tried first, and how often the interval around the best is halved then.
_GRID, _HALVINGS = 400, 60
_GOLDEN = 0.5 * (np.sqrt(5.0) - 1.0)


class Decay(NamedTuple):
    r"""$A e^{-\omega (t - t_0)} + B$, where $t_0$ is the first time of the data.

    - `misfit`: the root mean square of the relative deviations.
    """

    amplitude: float
    rate: float
    floor: float
    misfit: float


def fit_decay(t: np.ndarray, y: np.ndarray) -> Decay:
    r"""The decay nearest to positive data that fall over decades, by relative least squares.

    Variable projection (Golub & Pereyra 1973, doi:10.1137/0710036): for each rate the amplitude and
    the floor, neither of them negative, follow from a linear problem; what is left is a search in
    one dimension.

    **Arguments:**

    - `t`, `y`: shape `(n,)`, `t` increasing, `y` positive.

    **Raises:** `ValueError` for fewer than four points, or data that are not positive.
    """
    t, y = np.asarray(t, float), np.asarray(y, float)
    if t.size < 4:
        raise ValueError(f"Argument `t` must have at least 4 points, but has {t.size}.")
    if not np.all(y > 0):
        raise ValueError(f"Argument `y` must be positive, but has {y[~(y > 0)][0]}.")
    t = t - t[0]
    # from one that loses a tenth on the way to one that is over before the second point
    rates = np.geomspace(0.1 / t[-1], 5.0 / t[1], _GRID)
    best = int(np.argmin([_project(rate, t, y).misfit for rate in rates]))
    low, high = np.log(rates[max(best - 1, 0)]), np.log(rates[min(best + 1, _GRID - 1)])
    for _ in range(_HALVINGS):
        inner = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        left, right = (_project(np.exp(x), t, y).misfit for x in inner)
        low, high = (low, inner[1]) if left < right else (inner[0], high)
    return _project(np.exp(0.5 * (low + high)), t, y)


def envelope(t: np.ndarray, y: np.ndarray, width: float) -> np.ndarray:
    """The largest `y` over the last `width` of `t`, at every one of them: hides oscillation."""
    first = np.searchsorted(t, t - width)
    return np.array([y[i : j + 1].max() for j, i in enumerate(first)])


def _project(rate: float, t: np.ndarray, y: np.ndarray) -> Decay:
    """The best amplitude and floor for a rate."""
    columns = np.stack([np.exp(-rate * t), np.ones_like(t)], axis=1) / y[:, None]
    alone = [
        np.array([_ratio(columns[:, 0]), 0.0]),
        np.array([0.0, _ratio(columns[:, 1])]),
    ]
    both = np.linalg.lstsq(columns, np.ones_like(t), rcond=None)[0]
    found = [both] if np.all(both >= 0) else alone
    misfit = lambda x: float(np.sqrt(np.mean((columns @ x - 1.0) ** 2)))
    amplitude, floor = min(found, key=misfit)
    return Decay(float(amplitude), float(rate), float(floor), misfit(np.array([amplitude, floor])))


def _ratio(column: np.ndarray) -> float:
    """The multiple of a column that is nearest to one everywhere."""
    return column.sum() / (column @ column)
