"""Where each case is drawn, and how: a column for each learning rate, the legend below."""

import re
from collections.abc import Callable
from itertools import cycle
from typing import Any

from .pair import Pair
from .quantities import Quantity
from .style import COLOURS, LINES, label

_Style = dict[str, Any]


class Grid:
    """The panels of a figure: columns by learning rate; rows by quantity, and by reading.

    What is left of the hyperparameters is told by colour, the start by the line's style: the same
    in all figures of a config.
    """

    def __init__(self, pairs: list[Pair], keys: list[str]):
        self.pairs = pairs
        rates = {pair.values["learning_rate"] for pair in pairs}
        self.rates = sorted(rates, reverse=True)
        readings = dict.fromkeys(pair.values.get("reading") for pair in pairs)
        # where some models have no reading, it is told by colour like the rest
        split = len(readings) > 1 and None not in readings
        self.readings = list(readings) if split else [None]
        elsewhere = {"learning_rate", "theta0"} | ({"reading"} if split else set())
        self._colour_keys = [key for key in keys if key not in elsewhere]
        self._start_keys = [key for key in keys if key == "theta0"]
        self.labels = list(dict.fromkeys(self.label(pair) for pair in pairs))
        self.starts = list(dict.fromkeys(self.start(pair) for pair in pairs))

    def label(self, pair: Pair) -> str:
        return label(pair.values, self._colour_keys)

    def start(self, pair: Pair) -> str:
        return label(pair.values, self._start_keys)

    def style(self, pair: Pair) -> _Style:
        """The colour and the line's style of a case."""
        i, j = self.labels.index(self.label(pair)), self.starts.index(self.start(pair))
        return {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[j % len(LINES)]}

    def panel(self, rate: Any, reading: str | None) -> list[Pair]:
        """The cases of one panel."""
        of_rate = (pair for pair in self.pairs if pair.values["learning_rate"] == rate)
        return [p for p in of_rate if reading is None or p.values["reading"] == reading]

    def title(self, rate: Any, reading: str | None) -> str:
        steps = {int(pair.discrete.path.ts[-1]) for pair in self.panel(rate, reading)}
        words = [label({"learning_rate": rate}, ["learning_rate"])]
        ends = sorted({int(end) for pair in self.panel(rate, reading) for end in pair.ends})
        words += [f"{steps.pop()} steps"] if len(steps) == 1 else []
        words += [f"mark at {', '.join(map(str, ends))}"] if ends else []
        words += [reading] if reading is not None else []
        return ", ".join(words)

    def figure(
        self,
        title: str,
        rows: list[Quantity],
        draw: Callable[..., None],
        *,
        points: bool = True,
        sharey: bool = False,
    ) -> Any:
        """Draws every panel that has something to show, with `draw(axes, pairs, row)`.

        **Arguments:**

        - `points`: whether the discrete run is in it, for the legend.
        - `sharey`: whether the panels of a row have one axis.
        """
        from matplotlib.figure import Figure

        lines = [(row, reading) for row in rows for reading in self.readings]
        cells = [[rate for rate in self.rates if self._has(rate, *line)] for line in lines]
        columns = max(map(len, cells))
        # without holes neighbours share their time axis; else each panel stands for itself
        alone = any(len(line) < len(self.rates) for line in cells)
        size = (max(6.0, 0.6 + 3.5 * columns), 1.2 + 2.3 * len(lines))
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(
            len(lines),
            columns,
            squeeze=False,
            sharex=False if alone else "col",
            sharey="row" if sharey else False,
        )
        for i, ((row, reading), rates) in enumerate(zip(lines, cells, strict=True)):
            for axes in panels[i][len(rates) :]:
                axes.set_axis_off()
            for axes, rate in zip(panels[i], rates, strict=False):
                draw(axes, self.panel(rate, reading), row)
                if i == 0 or reading is not None or alone:
                    axes.set_title(self.title(rate, reading))
        for axes in () if alone else panels[:-1].flat:
            axes.set_xlabel("")
        for axes in panels[:, 1:].flat if sharey else ():
            axes.set_ylabel("")
        figure.suptitle(title)
        self._legend(figure, points)
        return figure

    def _has(self, rate: Any, row: Quantity, reading: str | None) -> bool:
        return any(row.read(pair.equation) is not None for pair in self.panel(rate, reading))

    def _legend(self, figure: Any, points: bool) -> None:
        """Below the panels, where it covers nothing; each group has columns of its own."""
        groups = [_kinds_of_lines()] if points else []
        if any(self.labels):
            colours = zip(cycle(COLOURS), self.labels, strict=False)
            groups.append([(_key(color=colour, linewidth=3), name) for colour, name in colours])
        if len(self.starts) > 1:
            styles = zip(cycle(LINES), self.starts, strict=False)
            groups.append([(_key(linestyle=style), name) for style, name in styles])
        if not groups:
            return
        longest = max(len(re.sub(r"[$_]", "", name)) for group in groups for _, name in group)
        fitting = max(len(groups), int(figure.get_figwidth() * 12 / (longest + 6)))
        columns = lambda rows: sum(-(-len(group) // rows) for group in groups)
        rows = max(map(len, groups))
        while rows > len(groups[0]) * points and rows > 1 and columns(rows - 1) <= fitting:
            rows -= 1
        nothing = (_key(linestyle=""), "")
        entries = [e for group in groups for e in [*group, *[nothing] * (-len(group) % rows)]]
        handles, names = zip(*entries, strict=True)
        style = {"loc": "outside lower center", "frameon": False}
        figure.legend(handles, names, ncols=columns(rows), **style)


def _kinds_of_lines() -> list[tuple[Any, str]]:
    hollow = {"marker": "o", "markerfacecolor": "white", "markersize": 4}
    return [(_key(), "equation"), (_key(linestyle="", **hollow), "discrete run")]


def _key(**style: Any) -> Any:
    """What stands in the legend beside a name."""
    from matplotlib.lines import Line2D

    return Line2D([], [], **{"color": "0.35", **style})
