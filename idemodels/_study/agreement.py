"""Where the equation describes the discrete run: against the learning rate, and over the decays."""

import jax
import jax.numpy as jnp
import numpy as np

from .._analysis.agreement import agreement as measured, decays_of
from .._plot import label
from .base import Finding, colour, panels, plain, telling

# Learning rates below a case's own, each half of the last, and the decays of the map.
_HALVINGS = 5
_OVER = {"b1": (0.0, 0.5, 0.9, 0.99), "b2": (0.9, 0.99, 0.999), "decay": (0.5, 0.9, 0.99)}
# The grades of the map: up to which part of the way the error is, and the cell's colour.
_GRADES = {"up to 1 %": "#009E73", "up to 10 %": "#F0E442", "beyond": "#D55E00"}


def agreement(title, pairs, keys):
    """The error of each case's model as its learning rate is halved, and a map over its decays."""
    rows, notes, maps, keys = [], [], [], telling(pairs, keys)
    for pair in pairs:
        alpha, steps = pair.values["learning_rate"], float(pair.discrete.path.ts[-1])
        start = jax.tree.map(lambda x: jnp.asarray(x[0]), pair.discrete.path.theta)
        alphas = alpha * 0.5 ** np.arange(_HALVINGS + 1)
        over = {name: _OVER[name] for name in decays_of(pair.model)}
        found = measured(pair.model, pair.objective, start, alphas, alpha * steps, over)
        maps.append((pair, found))
        name = label(pair.values, keys)
        for what, errors in (("decays", found.fixed_betas), ("memory", found.fixed_memory)):
            rows += [_row(pair, keys, what, found, errors, i) for i in range(alphas.size)]
            notes.append(
                f"{name}, fixed {what}: slope {errors.slope:.2f}; predicted "
                f"{errors.predicted_slope:.2f}."
            )
    with panels(title, 1 + len([one for _, one in maps if one.map is not None])) as (
        figure,
        (first, *others),
    ):
        for i, (pair, one) in enumerate(maps):
            name = label(pair.values, keys)
            for errors, ls, what in (
                (one.fixed_betas, "-", "fixed decays"),
                (one.fixed_memory, "--", "fixed memory times"),
            ):
                if what != "fixed decays" and not decays_of(pair.model):
                    continue  # without decays it is the same line
                shown = {"color": colour(i), "ls": ls, "label": f"{name}, {what}"}
                first.loglog(one.alphas, errors.error, marker=".", **shown)
        alphas = maps[0][1].alphas
        first.loglog(alphas, alphas, color="0.6", lw=0.9, label=r"slope 1: $\alpha$")
        first.set_xlabel(r"learning rate $\alpha$")
        first.set_ylabel(r"largest $|\theta(k) - \theta_k|$")
        first.set_title("error over the path")
        mapped = [(pair, one) for pair, one in maps if one.map is not None]
        for axes, (pair, one) in zip(others, mapped, strict=True):
            _draw_map(axes, label(pair.values, keys), one)
        for words, shade in _GRADES.items() if mapped else ():
            first.plot([], [], "s", color=shade, label=f"map: {words}")
    return Finding(rows, figure, notes)


def _row(pair, keys, what, found, errors, i):
    return {
        "case": plain(pair, keys),
        "fixed": what,
        "learning_rate": float(found.alphas[i]),
        "steps": int(found.steps[i]),
        "error": float(errors.error[i]),
        "over the way": float(errors.relative[i]),
        "solver error": float(errors.solver_error[i]),
        "predicted order": float(errors.predicted[i]),
    }


def _draw_map(axes, name, found):
    """Cells in the colours of `_GRADES`; grey where the solve failed."""
    from matplotlib.colors import BoundaryNorm, ListedColormap

    cells = found.map.reshape(found.alphas.size, -1).T
    colours = ListedColormap([*_GRADES.values()], name="grade")
    colours = colours.with_extremes(bad="#bbbbbb")
    axes.grid(visible=False)
    axes.imshow(
        np.ma.masked_invalid(np.maximum(cells, 1e-12)),
        cmap=colours,
        norm=BoundaryNorm([0.0, 0.01, 0.1, np.inf], 3),
        aspect="auto",
    )
    for (j, i), value in np.ndenumerate(cells):
        text = f"{100 * value:.2g}" if np.isfinite(value) else "failed"
        axes.text(i, j, text, ha="center", va="center", fontsize=7)
    axes.set_xticks(range(found.alphas.size), [f"{a:.3g}" for a in found.alphas], rotation=45)
    words = [", ".join(f"{x:g}" for x in row) for row in _rows_of(found.over)]
    axes.set_yticks(range(len(words)), words)
    axes.set_xlabel(r"learning rate $\alpha$")
    axes.set_ylabel(", ".join(found.over) or "no decays")
    axes.set_title(f"{name}: error in % of the way")


def _rows_of(over):
    grid = np.meshgrid(*over.values(), indexing="ij")
    return np.stack([x.ravel() for x in grid], axis=1) if grid else np.zeros((1, 0))
