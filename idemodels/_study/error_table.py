"""The distance from the discrete run against the learning rate: over the path, and at its end."""

import numpy as np

from .._analysis import order
from .base import THEIRS, Finding, colour, grouped, panels

_RATE = r"learning rate $\alpha$"


def error_table(title, pairs, keys):
    """The largest error of each path beside the one at its end, and the slopes of both."""
    groups = grouped(pairs, keys, "learning_rate")
    rows, notes = [], []
    with panels(title, 2) as (figure, (left, right)):
        for i, group in enumerate(groups):
            rates = np.array([pair.values["learning_rate"] for pair in group.pairs])
            largest = np.array([pair.error.max() for pair in group.pairs])
            last = np.array([pair.error[-1] for pair in group.pairs])
            theirs = np.array([pair.published for pair in group.pairs])
            rows += [_row(group.values, pair) for pair in group.pairs]
            shown = {"color": colour(i), "marker": ".", "linestyle": "-" if i < 7 else "--"}
            left.loglog(rates, largest, label=group.label, **shown)
            right.loglog(rates, last, **shown)
            if np.any(np.isfinite(theirs)):
                right.loglog(rates, theirs, color=colour(i), **THEIRS)
            words = " ".join(f"{key}={value}" for key, value in group.values.items() if value != "")
            notes.append(
                f"{words}: slope {order(rates, largest):.2f} of the largest error, "
                f"{order(rates, last):.2f} of the last."
            )
        if any(np.isfinite(pair.published) for pair in pairs):
            right.plot([], [], color="0.35", label="published", **THEIRS)
        left.set_title("largest error over the path")
        right.set_title("error at the end of the path")
        left.set_ylabel(r"$|\theta(k) - \theta_k|$")
        for axes in (left, right):
            axes.set_xlabel(_RATE)
    return Finding(rows, figure, notes)


def _row(values, pair):
    worst = int(np.argmax(pair.error))
    return {
        **values,
        "learning_rate": pair.values["learning_rate"],
        "largest": pair.error[worst],
        "at step": int(pair.discrete.path.ts[worst]),
        "last": pair.error[-1],
        "last step": int(pair.discrete.path.ts[-1]),
        "published": pair.published,
    }
