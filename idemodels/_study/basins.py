"""In which well a path ends, against the learning rate."""

import jax
import jax.numpy as jnp
import numpy as np

from .base import THEIRS, Finding, colour, grouped, panels

# Where the wells of a function of one parameter are looked for, and how finely.
_RANGE, _POINTS = 3.0, 60_001
# Steps before the end over which a path is seen to swing.
_LAST = 100


def basins(title, pairs, keys):
    """The last point of both paths, on which side of the hump each is, and how far they swing."""
    groups = grouped(pairs, keys, "learning_rate")
    minima, humps = stationary(pairs[0].objective)
    side = lambda x: int(np.searchsorted(humps, x))
    rows, notes = [], []
    with panels(title, 1) as (figure, (axes,)):
        for where in minima:
            axes.axhline(where, color="0.75", linewidth=0.8)
        for where in humps:
            axes.axhline(where, color="0.75", linewidth=0.8, linestyle=":")
        for i, group in enumerate(groups):
            rates = [pair.values["learning_rate"] for pair in group.pairs]
            ends = [float(pair.equation.path.theta[-1]) for pair in group.pairs]
            discrete = [float(pair.discrete.path.theta[-1]) for pair in group.pairs]
            shown = {"color": colour(i + 1), "linestyle": ("-", "--")[i % 2]}
            axes.semilogx(rates, ends, marker=".", label=f"equation: {group.label}", **shown)
            if i == 0:
                axes.semilogx(
                    rates,
                    discrete,
                    **THEIRS
                    | {"marker": "o", "markersize": 8, "markerfacecolor": "none", "color": "black"},
                    label="discrete run",
                )
            for pair, end, run in zip(group.pairs, ends, discrete, strict=True):
                rows.append(
                    {
                        **group.values,
                        "learning_rate": pair.values["learning_rate"],
                        "last step": int(pair.discrete.path.ts[-1]),
                        "equation": end,
                        "discrete": run,
                        "same well": "yes" if side(end) == side(run) else "no",
                        "swing": _swing(pair.equation),
                        "discrete swing": _swing(pair.discrete),
                        "published": pair.published,
                    }
                )
            theirs = [pair.published for pair in group.pairs]
            if np.any(np.isfinite(theirs)):
                axes.semilogx(
                    rates, theirs, **THEIRS, color=colour(i + 1), label=f"published: {group.label}"
                )
        axes.set_xlabel(r"learning rate $\alpha$")
        axes.set_ylabel(r"$\theta$ at the last step")
    listed = lambda xs: ", ".join(f"{x:.4f}" for x in xs)
    notes.append(f"Minima at {listed(minima)}; humps at {listed(humps)}.")
    return Finding(rows, figure, notes)


def _swing(side):
    """The range of the last hundred steps."""
    last = side.path.theta[side.path.ts >= side.path.ts[-1] - _LAST]
    return float(np.ptp(last))


def stationary(objective):
    """The minima and the maxima of a function of one parameter between -3 and 3."""
    x = np.linspace(-_RANGE, _RANGE, _POINTS)
    slope = np.asarray(jax.vmap(jax.grad(objective))(jnp.asarray(x)))
    at = np.flatnonzero((slope[:-1] < 0) != (slope[1:] < 0))
    zero = x[at] - slope[at] * (x[at + 1] - x[at]) / (slope[at + 1] - slope[at])
    rising = slope[at + 1] > slope[at]
    return zero[rising], zero[~rising]
