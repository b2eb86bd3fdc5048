"""The source's own curves, and a name for everything in which they differ from ours."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from .._analysis.published_scheme import SUBSTEPS, published_scheme
from .._model import SecondOrderAdam
from .._programs import program
from .base import Finding, colour, grouped, panels, positive

# What lies between their curve and the discrete run, from one to the other.
_NAMES = ("left over", "moments ahead", "Euler's step", "start at s = 1", "model error")


def files(title, pairs, keys):
    """For each case with a curve of the source: the distance, and its parts.

    A case needs a twin that starts at s = 1. Between the source's curve and the discrete run lie a
    scheme like theirs, that scheme with its moments read where they belong, the equation solved
    from s = 1, and from 0: each link is the largest difference of two neighbours.
    """
    rows = []
    for group in grouped(pairs, [*keys, "objective"], "shift", same_steps=True):
        by_start = {pair.values.get("shift", 0.0): pair for pair in group.pairs}
        if {0.0, 1.0} <= set(by_start) and by_start[0.0].curve:
            rows.append(_row(group.values, by_start[0.0], by_start[1.0]))
    with panels(title, 1) as (figure, (axes,)):
        figure.set_size_inches(max(6.0, 2.0 + 0.26 * len(rows)), 6.2)
        at = np.arange(len(rows))
        axes.semilogy(
            at,
            positive(np.array([row["to the equation"] for row in rows])),
            "_",
            color="black",
            markersize=11,
            label="their curve to the equation from s = 0",
        )
        for i, (name, marker) in enumerate(zip(_NAMES, "xs^ov", strict=True)):
            sizes = positive(np.array([row[name] for row in rows]))
            axes.semilogy(at, sizes, marker, color=colour(i), markersize=4.5, label=name)
        axes.set_xticks(at, [_words(row) for row in rows], rotation=90, fontsize=7)
        axes.set_xlabel("the source's file")
        axes.set_ylabel(r"largest difference in $\theta$")
    return Finding(rows, figure, _notes(rows))


def _row(values, usual, shifted):
    points = len(usual.curve)
    steps = int(usual.discrete.path.ts[-1])
    marks = np.linspace(0, steps, points)
    on = lambda pair: np.interp(marks, pair.equation.path.ts, pair.equation.path.theta)
    inertial = isinstance(usual.model, SecondOrderAdam)
    gradient = lambda x: np.asarray(_gradients(usual.objective, jnp.asarray(x)))
    start = float(usual.discrete.path.theta[0])
    schemes = [
        published_scheme(usual.model, gradient, start, steps, ahead=ahead)
        for ahead in ([True, False] if inertial else [False])
    ]
    rows = np.round(SUBSTEPS * marks).astype(int)
    discrete = np.interp(marks, usual.discrete.path.ts, usual.discrete.path.theta)
    chain = [np.array(usual.curve), schemes[0][rows], schemes[-1][rows]]
    chain += [on(shifted), on(usual), discrete]
    links = [float(np.max(np.abs(a - b))) for a, b in pairwise(chain)]
    if not inertial:
        links[1] = float("nan")  # it reads them where they belong
    far = lambda path: float(np.max(np.abs(chain[0] - path)))
    return {
        **values,
        "learning_rate": usual.values["learning_rate"],
        "objective": usual.values.get("objective", ""),
        "steps": steps,
        "to the discrete run": far(discrete),
        "to the equation": far(on(usual)),
        **dict(zip(_NAMES, links, strict=True)),
    }


@program
def _gradients(objective, x):
    return jax.vmap(jax.grad(objective))(x)


def _words(row):
    """Such as "c=4, -1.5, a=.01, v=1", for a tick."""
    objective = row["objective"].partition("(")[2].removesuffix(")").replace(".0", "")
    first = [objective, f"$\\theta_0$={row['theta0']:g}"] if row.get("theta0") else [objective]
    words = [*first, rf"$\alpha$={row['learning_rate']:g}"]
    if "b1" in row and row["b1"] != 0.99:
        words.append(f"$b$={row['b1']:g}, {row['b2']:g}")
    if isinstance(row.get("velocity0"), float | int):
        words.append(rf"$\dot\theta_0$={row['velocity0']:g}")
    else:
        words.append("first order")
    return ", ".join(filter(None, words))


def _notes(rows):
    if not rows:
        return []
    largest = max(row["left over"] for row in rows)
    counted: dict[str, int] = dict.fromkeys(_NAMES, 0)
    for row in rows:
        sizes = {name: row[name] for name in _NAMES if np.isfinite(row[name])}
        largest_part = max(sizes, key=lambda name: sizes[name])
        counted[largest_part] += 1
    most = ", ".join(f"{name} ({n})" for name, n in counted.items() if n)
    return [
        f"A scheme like theirs repeats each of the {len(rows)} curves to {largest:.1e}.",
        f"The largest part, and in how many files: {most}.",
    ]
