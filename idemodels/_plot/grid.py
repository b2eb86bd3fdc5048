"""Where each case is drawn, and how: a column for each learning rate, the legend below."""

from collections.abc import Callable
from typing import Any

from .pair import Pair
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
        steps = {int(pair.discrete.ts[-1]) for pair in self.panel(rate, reading)}
        words = [label({"learning_rate": rate}, ["learning_rate"])]
        words += [f"{steps.pop()} steps"] if len(steps) == 1 else []
        words += [reading] if reading is not None else []
        return ", ".join(words)

    def figure(
        self, title: str, rows: list[Any], draw: Callable[..., bool], *, points: bool, sharey: bool
    ) -> Any:
        """Draws every panel with `draw(axes, pairs, row)`, which says whether there was anything.

        **Arguments:**

        - `points`: whether the discrete run is in it, for the legend.
        """
        from matplotlib.figure import Figure

        lines = [(row, reading) for row in rows for reading in self.readings]
        size = (max(6.0, 0.6 + 3.5 * len(self.rates)), 1.2 + 2.3 * len(lines))
        figure = Figure(figsize=size, layout="constrained")
        shape = {"nrows": len(lines), "ncols": len(self.rates), "squeeze": False}
        panels = figure.subplots(**shape, sharex="col", sharey="row" if sharey else False)
        for i, (row, reading) in enumerate(lines):
            for j, rate in enumerate(self.rates):
                axes = panels[i][j]
                if not draw(axes, self.panel(rate, reading), row):
                    axes.set_axis_off()
                if i == 0 or reading is not None:
                    axes.set_title(self.title(rate, reading))
                if j and sharey:
                    axes.set_ylabel("")
                if i < len(lines) - 1:
                    axes.set_xlabel("")
        figure.suptitle(title)
        self._legend(figure, points)
        return figure

    def _legend(self, figure: Any, points: bool) -> None:
        """Below the panels, where it covers nothing."""
        from matplotlib.lines import Line2D

        line = lambda **style: Line2D([], [], **style)
        entries = []
        if points:
            hollow = {"marker": "o", "markerfacecolor": "white", "markersize": 4}
            entries.append((line(color="0.35"), "equation"))
            entries.append((line(color="0.35", linestyle="", **hollow), "discrete run"))
        if len(self.labels) > 1 or self.labels[0]:
            for i, name in enumerate(self.labels):
                entries.append((line(color=COLOURS[i % len(COLOURS)], linewidth=3), name))
        if len(self.starts) > 1:
            for i, name in enumerate(self.starts):
                entries.append((line(color="0.35", linestyle=LINES[i % len(LINES)]), name))
        if not entries:
            return
        handles, names = zip(*entries, strict=True)
        longest = max(map(len, names))
        columns = max(1, min(len(names), int(figure.get_figwidth() * 11 / (longest + 6))))
        figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False)
