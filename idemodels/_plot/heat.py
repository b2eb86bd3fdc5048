"""Heat maps of a sweep over two of its axes, small multiples along a third."""

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from .._sweep import FINE
from .style import RC

# Panels at most; of a longer axis some values, evenly chosen.
_PANELS = 6
_TITLES = {
    "final_loss": "loss of the equation at the last step",
    "max_error": "largest distance of equation and discrete run",
}
_SHORT = {"final_loss": "loss", "max_error": "distance"}


def heat_maps(
    title: str, found: Any, axes: tuple[str, ...], panels: str | None
) -> dict[str, Figure]:
    """A figure for the final loss and one for the distance to the discrete run.

    **Arguments:**

    - `found`: the data set of [`idemodels.sweep`][], a grid.
    - `axes`: of the maps, x and y; with one alone it is a line.
    - `panels`: the axis of the small multiples; of any further one the middle value is drawn.
    """
    with mpl.rc_context(RC):
        return {name: _figure(title, found, name, axes, panels) for name in _TITLES}


def _figure(title: str, found: Any, name: str, axes: tuple[str, ...], panels: str | None) -> Figure:
    values = found[name].where(found.status.isin(FINE))
    others = [d for d in values.dims if d not in (*axes, panels)]
    values = values.isel({d: found.sizes[d] // 2 for d in others})
    at = np.arange(found.sizes[panels]) if panels else np.zeros(1, int)
    if at.size > _PANELS:
        at = np.unique(np.round(np.linspace(0, at[-1], _PANELS)).astype(int))
    columns = min(at.size, 3)
    rows = -(-at.size // columns)
    size = (max(5.5, 1.2 + 2.9 * columns), 1.1 + max(2.5 * rows, 3.0))
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(f"{title}\n{_TITLES[name]}")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    numbers = values.values[np.isfinite(values.values) & (values.values > 0)]
    low, high = (numbers.min(), numbers.max()) if numbers.size else (1e-1, 1.0)
    norm = LogNorm(max(low, 1e-12 * high), high if high > low else 2.0 * low)
    image = None
    for i, panel in enumerate(grid.flat):
        if i >= at.size:
            panel.set_visible(False)
            continue
        one = values.isel({panels: at[i]}) if panels else values
        if panels:
            panel.set_title(f"{panels} = {float(found[panels][at[i]]):.4g}")
        panel.grid(visible=False)
        image = _draw(panel, found, one, axes, norm) or image
    if image is not None:
        figure.colorbar(image, ax=grid, label=_SHORT[name], shrink=0.9)
    return figure


def _draw(panel: Any, found: Any, one: Any, axes: tuple[str, ...], norm: Any) -> Any:
    x, x_label, x_scale = _axis(found, axes[0])
    panel.set_xlabel(x_label)
    if len(axes) == 1:
        panel.plot(x, one.values, "o-", color="black", markersize=3)
        panel.set_xscale(x_scale)
        panel.set_yscale("log")
        return None
    y, y_label, y_scale = _axis(found, axes[1])
    panel.set_facecolor("#bbbbbb")  # where a lane failed
    z = one.transpose(axes[1], axes[0]).values
    edges = _edges(x, x_scale), _edges(y, y_scale)
    image = panel.pcolormesh(*edges, z, norm=norm, cmap="cividis", rasterized=True)
    panel.set(xscale=x_scale, yscale=y_scale, ylabel=y_label)
    return image


def _edges(values: np.ndarray, scale: str) -> np.ndarray:
    """Where the cells of an axis end: half-way between its values, on its scale."""
    log = scale == "log" and bool(np.all(values > 0))
    x = np.log(values) if log else values
    gaps = np.diff(x) if x.size > 1 else np.ones(1)
    inner = 0.5 * (x[1:] + x[:-1])
    edges = np.concatenate([[x[0] - 0.5 * gaps[0]], inner, [x[-1] + 0.5 * gaps[-1]]])
    return np.exp(edges) if log else edges


def _axis(found: Any, name: str) -> tuple[np.ndarray, str, str]:
    about = found[name].attrs
    label = str(about.get("long_name", name)).replace(" ", "")
    shown = found[label] if label in found.coords else found[name]
    return shown.values, label, str(about.get("scale", "linear"))
