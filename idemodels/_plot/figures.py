"""The figures of a run. matplotlib is imported in the functions, so that no other part needs it."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .grid import Grid
from .pair import Pair
from .quantities import Quantity, distance, gradient, loss, moments, parameters
from .style import RC

FIGURES = ("paths", "moments", "gradient", "error", "loss")

# Discrete iterates drawn per path: more of them merge into a line.
_POINTS = 45
_TIME = r"time $t = \alpha s$ (dimensionless)"
_STEPS = "optimizer step $s$"


def draw(
    title: str, pairs: list[Pair], keys: list[str], names: Sequence[str] = FIGURES
) -> dict[str, Any]:
    """The figures by name.

    **Arguments:**

    - `pairs`: at least one.
    - `keys`: the hyperparameters that tell them apart.
    - `names`: which of [`FIGURES`][]; "moments" only where there are such.
    """
    import matplotlib

    with matplotlib.rc_context(RC):
        grid = Grid(pairs, keys)
        curves = lambda what, rows: grid.figure(f"{title}: {what}", rows, curve_with(grid))
        makers: dict[str, Callable[[], Any]] = {
            "paths": lambda: curves("equation and discrete run", parameters(pairs)),
            "moments": lambda: curves("moments", moments(pairs)),
            "gradient": lambda: curves("gradient along the path", gradient(pairs)),
            "error": lambda: _errors(title, grid),
            "loss": lambda: curves("loss along the path", loss()),
        }
        return {name: makers[name]() for name in names if name != "moments" or moments(pairs)}


def _errors(title: str, grid: Grid) -> Any:
    what = f"{title}: distance between equation and discrete run"
    figure = grid.figure(what, [distance()], error_with(grid), points=False, sharey=True)
    for axes in figure.axes:  # the limits are a row's: after all of it is drawn
        _log_axis(axes, 7)
    return figure


def rendered(figure: Any, suffix: str) -> bytes:
    """A figure as the content of a file, "png" or "svg"; the same each time."""
    import matplotlib

    buffer = io.BytesIO()
    metadata = {"Date": None} if suffix == "svg" else {"Software": None}
    with matplotlib.rc_context(RC):
        figure.savefig(buffer, format=suffix, dpi=160, metadata=metadata)
    return buffer.getvalue()


def curve_with(grid: Grid) -> Any:
    """Draws a quantity of both paths over time: a line, and points."""

    def curve(axes: Any, pairs: list[Pair], quantity: Quantity) -> None:
        shown = []
        for i, pair in enumerate(pairs):
            line, points = quantity.read(pair.equation), quantity.read(pair.discrete)
            if line is None or points is None:
                continue
            style = grid.style(pair)
            chosen = _some(points.size, i)
            axes.plot(pair.equation.path.times, line, **style, zorder=2)
            axes.plot(
                np.asarray(pair.discrete.path.times)[chosen],
                points[chosen],
                linestyle="",
                marker="o",
                markersize=3.6,
                markerfacecolor="white",
                markeredgecolor=style["color"],
                markeredgewidth=0.9,
                zorder=3,
            )
            shown.append(points[np.isfinite(points)])
            path = pair.discrete.path
            _mark(axes, np.interp(pair.ends, path.ts, np.asarray(path.times)))
        axes.set_xlabel(_TIME)
        axes.set_ylabel(quantity.name)
        if quantity.log and shown and _spans_decades(np.concatenate(shown)):
            _log_axis(axes, 12)

    return curve


def error_with(grid: Grid) -> Any:
    """Draws the distance at every step, on a logarithmic axis."""

    def error(axes: Any, pairs: list[Pair], quantity: Quantity) -> None:
        for pair in pairs:
            # where both agree to the last bit there is nothing to draw
            positive = np.where(pair.error > 0, pair.error, np.nan)
            if np.any(np.isfinite(positive)):
                axes.plot(pair.discrete.path.ts, positive, **grid.style(pair))
            _mark(axes, pair.ends)
        axes.set_xlabel(_STEPS)
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=5)
        axes.set_ylabel(quantity.name)

    return error


def _mark(axes: Any, places: Any) -> None:
    """Where another version of the source ends."""
    for x in places:
        axes.axvspan(x, x, edgecolor="0.5", linewidth=0.9, linestyle=":", zorder=1)


def _log_axis(axes: Any, decades: int) -> None:
    """A logarithmic axis without what is far below the rest: rounding, dips where paths cross."""
    row = axes.get_shared_y_axes().get_siblings(axes)
    drawn = np.concatenate([[0.0], *(line.get_ydata() for panel in row for line in panel.lines)])
    drawn = drawn[np.isfinite(drawn) & (drawn > 0)]
    if not drawn.size:
        return
    top = np.max(drawn)
    axes.set_yscale("log")
    axes.set_ylim(max(np.min(drawn) / 2, top * 10.0**-decades), top * 2)


def _some(size: int, shift: int) -> np.ndarray:
    """Indices of the points that are drawn; each case's a little apart from the others'."""
    stride = max(1, -(-size // _POINTS))
    return np.arange((shift * stride // 3) % stride, size, stride)


def _spans_decades(y: np.ndarray) -> bool:
    return y.size > 0 and bool(np.min(y) > 0) and bool(np.max(y) > 1e3 * np.min(y))
