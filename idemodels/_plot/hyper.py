"""Figures of hyperparameters that descend, and of derivatives along a horizon."""

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from .style import COLOURS, RC

_SHOWN = {"learning_rate": r"learning rate $\alpha$", "b1": "$1 - b_1$", "b2": "$1 - b_2$"}


def descent_figure(title: str, tuned: Any) -> Figure:
    """The path of the hyperparameters, and the losses along it."""
    with mpl.rc_context(RC):
        figure = Figure(figsize=(9.2, 4.2), layout="constrained")
        figure.suptitle(title)
        left, right = figure.subplots(1, 2)
        for i, (name, values) in enumerate(tuned.values.items()):
            shown = 1.0 - values if name in ("b1", "b2", "decay") else values
            label = _SHOWN.get(name, "$1 - b$" if name == "decay" else name)
            left.semilogy(shown, color=COLOURS[i], label=label, marker=".")
        left.set_ylabel("hyperparameter")
        lines = (
            ("equation", "equation, images to tune on", "-"),
            ("discrete", "discrete run, the same images", "--"),
            ("test", "discrete run, images never seen", ":"),
        )
        for i, (name, label, line) in enumerate(lines):
            right.semilogy(getattr(tuned, name), line, color=COLOURS[i], label=label)
        right.set_ylabel("loss after the training")
        for axes in (left, right):
            axes.set_xlabel("update of the hyperparameters")
            axes.legend(frameon=False)
    return figure


def horizon_figure(title: str, name: str, sides: Mapping[str, tuple[Any, Any]]) -> Figure:
    """Derivatives of both sides against the horizon, and how much of a change they miss.

    **Arguments:**

    - `sides`: by the label of a case, the equation's and the discrete run's.
    """
    with mpl.rc_context(RC):
        figure = Figure(figsize=(9.2, 4.6), layout="constrained")
        figure.suptitle(title)
        left, right = figure.subplots(1, 2, sharex=True)
        for i, (label, pair) in enumerate(sides.items()):
            for side, line in zip(pair, ("-", "--"), strict=True):
                style = {"color": COLOURS[i % len(COLOURS)], "linestyle": line}
                positive = lambda x: np.where(x > 0, x, np.nan)
                left.semilogy(side.ts, positive(np.abs(side.slope)), **style)
                right.semilogy(side.ts, positive(side.missed), **style)
            left.plot([], [], color=COLOURS[i % len(COLOURS)], label=label)
        for words, line in (("equation", "-"), ("discrete run", "--")):
            left.plot([], [], color="0.35", linestyle=line, label=words)
        right.axhline(0.5, color="0.6", linewidth=0.8)
        right.annotate("of no use above", (1, 0.5), xycoords=("axes fraction", "data"),
                       ha="right", va="top", color="0.35")  # fmt: skip
        left.set_ylabel(rf"|d loss / d ln {_PLAIN.get(name, name)}|")
        right.set_ylabel("part of a change that the derivative misses")
        for axes in (left, right):
            axes.set_xlabel("horizon, in optimizer steps")
        figure.legend(loc="outside lower center", frameon=False, ncols=4)
    return figure


_PLAIN = {"learning_rate": r"$\alpha$"}
