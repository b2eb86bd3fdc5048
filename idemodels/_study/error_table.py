"""The distance from the discrete run against the learning rate: over the path, and at its end."""

import numpy as np

from .._analysis import order
from .base import THEIRS, Finding, colour, grouped, panels, positive

_RATE = r"learning rate $\alpha$"
# The config's name for what the source has of the loss at the end.
_LOSS = "loss"


def error_table(title, pairs, keys):
    """Errors in theta over the path and at its end, and in the loss there; slopes of all of them.

    The source's numbers are of the last point, `published` in theta and "loss" of `also_published`.
    """
    groups = grouped(pairs, keys, "learning_rate")
    rows, notes = [], []
    with panels(title, 3) as (figure, all_axes):
        for i, group in enumerate(groups):
            found = [_row(group.values, pair) for pair in group.pairs]
            rows += found
            rates, *columns = (
                np.array([row[name] for row in found])
                for name in ("learning_rate", "largest", "last", "last in loss")
            )
            theirs = [
                np.array([row[name] for row in found])
                for name in ("published", "published in loss")
            ]
            shown = {"color": colour(i), "marker": ".", "linestyle": "-" if i < 7 else "--"}
            for axes, ours in zip(all_axes, columns, strict=True):
                axes.loglog(rates, positive(ours), **shown)
            all_axes[0].plot([], [], label=group.label, **shown)
            for axes, published in zip(all_axes[1:], theirs, strict=True):
                if np.any(np.isfinite(published)):
                    axes.loglog(rates, published, color=colour(i), **THEIRS)
            words = " ".join(f"{key}={value}" for key, value in group.values.items() if value != "")
            notes.append(f"{words}: {_slopes(rates, columns, theirs)}")
        if any(np.isfinite(pair.published) for pair in pairs):
            all_axes[0].plot([], [], color="0.35", label="published", **THEIRS)
        titles = (
            "largest error over the path",
            "error at the end of the path",
            "error of the loss at the end",
        )
        for axes, words in zip(all_axes, titles, strict=True):
            axes.set_title(words)
            axes.set_xlabel(_RATE)
            axes.set_ylabel(r"$|\theta(k) - \theta_k|$")
        all_axes[-1].set_ylabel(r"$|L(\theta(k)) - L(\theta_k)|$")
    return Finding(rows, figure, notes)


def _slopes(rates, columns, theirs):
    """Such as "slope 1.20 of the largest error, 2.62 of the last (published: 2.53)."."""
    names = ("of the largest error", "of the last", "of that in the loss")
    told = []
    for name, ours, published in zip(names, columns, (None, *theirs), strict=True):
        words = f"{order(rates, ours):.2f} {name}"
        if published is not None and np.count_nonzero(np.isfinite(published)) > 1:
            words += f" (published: {order(rates, published):.2f})"
        told.append(words)
    return f"slope {', '.join(told)}."


def _row(values, pair):
    worst = int(np.argmax(pair.error))
    ends = [float(side.path.loss[-1]) for side in (pair.equation, pair.discrete)]
    return {
        **values,
        "learning_rate": pair.values["learning_rate"],
        "largest": pair.error[worst],
        "at step": int(pair.discrete.path.ts[worst]),
        "last": pair.error[-1],
        "last step": int(pair.discrete.path.ts[-1]),
        "published": pair.published,
        "last in loss": abs(ends[0] - ends[1]),
        "published in loss": pair.also_published.get(_LOSS, np.nan),
    }
