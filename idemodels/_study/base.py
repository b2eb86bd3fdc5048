"""What is made of all cases of a config together: rows, and a figure."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._plot import COLOURS, RC, Pair, Side, components, label

# The source's numbers, beside ours.
THEIRS: Any = {"linestyle": "", "marker": "x", "markersize": 6.5, "markeredgewidth": 1.3}


@dataclass(frozen=True)
class Finding:
    """What a study found.

    - `rows`: a table, the same keys in each; NaN where there is nothing.
    - `figure`: matplotlib's.
    - `notes`: sentences, to stand below the table.
    """

    rows: list[dict[str, Any]]
    figure: Any
    notes: list[str] = field(default_factory=list)


# `study(title, pairs, keys)`: the cases that were solved, and the hyperparameters that tell them
# apart.
Study = Callable[[str, list[Pair], list[str]], Finding]


@dataclass(frozen=True)
class Group:
    """Cases that differ in one hyperparameter alone, sorted by it.

    - `label`: in words for a figure, without that hyperparameter.
    - `values`: those that the table shows, without it.
    """

    label: str
    values: dict[str, Any]
    pairs: list[Pair]


def grouped(
    pairs: list[Pair], keys: list[str], without: str, *, same_steps: bool = False
) -> list[Group]:
    """Groups by everything but one hyperparameter.

    **Arguments:**

    - `same_steps`: whether their paths must be known at the same steps.
    """
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        common = {key: value for key, value in pair.values.items() if key != without}
        steps = float(pair.discrete.path.ts[-1]) if same_steps else None
        groups.setdefault(repr((common, steps)), []).append(pair)
    kept = [key for key in keys if key != without]
    found = []
    for group in groups.values():
        group.sort(key=lambda pair: pair.values.get(without, 0.0))
        values = group[0].values
        shown = {key: values.get(key, "") for key in kept}
        found.append(Group(label(values, kept), shown, group))
    return found


def telling(pairs: list[Pair], keys: list[str]) -> list[str]:
    """The model, and of `keys` those that tell the cases of one model apart."""
    seen: dict[tuple[str, str], set[str]] = {}
    for pair in pairs:
        for key in keys:
            values = seen.setdefault((key, str(pair.values["model"])), set())
            values.add(repr(pair.values.get(key)))
    apart = {key for (key, _), values in seen.items() if len(values) > 1}
    return ["model", *(key for key in keys if key in apart and key != "model")]


def plain(pair: Pair, keys: list[str]) -> str:
    """Such as "adam b1=0.9", for a table."""
    others = [f"{key}={pair.values[key]}" for key in keys[1:] if key in pair.values]
    return " ".join([str(pair.values["model"]), *others])


def distance(a: Side, b: Side) -> np.ndarray:
    """The largest difference of two paths at the same steps, over components, shape `(T,)`."""
    rows = components(a.path.theta)[1] - components(b.path.theta)[1]
    return np.max(np.abs(rows), axis=1)


def colour(i: int) -> str:
    """The i-th colour."""
    return COLOURS[i % len(COLOURS)]


def positive(y: np.ndarray) -> np.ndarray:
    """What a logarithmic axis can show."""
    return np.where(y > 0, y, np.nan)


def decades(axes: Any, count: int) -> None:
    """Cuts off what lies more than so many decades below the top: dips where paths cross."""
    drawn = np.concatenate([[0.0], *(np.ravel(line.get_ydata()) for line in axes.lines)])
    top = np.max(drawn, where=np.isfinite(drawn), initial=0.0)
    if top > 0:
        axes.set_ylim(bottom=max(axes.get_ylim()[0], top * 10.0**-count))


@contextmanager
def panels(title: str, count: int) -> Iterator[Any]:
    """A figure and its axes, up to four side by side, more in lines of three.

    Below them is a legend of everything that has a label.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(RC):
        columns = count if count <= 4 else 3
        lines = -(-count // columns)
        size = (max(6.0, 4.4 * columns), 1.0 + 3.6 * lines)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False).ravel()
        for unused in axes[count:]:
            unused.remove()
        axes = axes[:count]
        figure.suptitle(title)
        yield figure, axes
        named: dict[str, Any] = {}
        for panel in axes:
            handles, names = panel.get_legend_handles_labels()
            named |= dict(zip(names, handles, strict=True))
        if named:
            longest = max(len(re.sub(r"\\[a-z]+|[$_]", "", name)) for name in named)
            columns = max(1, min(4, int(figure.get_figwidth() * 12 / (longest + 6))))
            where = {
                "loc": "outside lower center",
                "frameon": False,
                "ncols": columns,
                "handlelength": 2.8,
            }
            figure.legend(list(named.values()), list(named), **where)
