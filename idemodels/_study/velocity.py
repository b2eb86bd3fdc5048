"""How long a path remembers its initial velocity."""

import numpy as np

from .._analysis import since
from .._plot import LINES
from .base import THEIRS, Finding, colour, decades, distance, grouped, panels, positive

# The papers' time after which the initial velocity is to be forgotten.
_LAYER = 1.0


def velocity(title, pairs, keys):
    """Paths of different initial velocities against that which starts at rest, after t = 1.

    The source's numbers are `published` of theta and "loss" of `also_published`.
    """
    rows = []
    speeds = sorted({pair.values["velocity0"] for pair in pairs} - {0.0})
    style = dict(zip(speeds, LINES * len(speeds), strict=False))
    with panels(title, 3) as (figure, (left, middle, right)):
        for i, group in enumerate(grouped(pairs, keys, "velocity0", same_steps=True)):
            rest = next((pair for pair in group.pairs if pair.values["velocity0"] == 0.0), None)
            if rest is None:
                continue
            left.plot([], [], color=colour(i), linewidth=3, label=group.label)
            for pair in group.pairs:
                speed = pair.values["velocity0"]
                if pair is rest:
                    continue
                away = distance(pair.equation, rest.equation)
                times = np.asarray(pair.equation.path.times)[1:]
                line = {"color": colour(i), "linestyle": style[speed]}
                left.loglog(times, positive(away)[1:], **line)
                rows.append(_row(group.values, pair, rest, away))
        for speed in speeds:
            line = {"color": "0.35", "linestyle": style[speed]}
            of_speed = [row for row in rows if row["velocity0"] == speed]
            rates = [row["learning_rate"] for row in of_speed]
            name = rf"$\dot\theta_0$ = {speed:g}"
            left.plot([], [], label=name, **line)
            for axes, ours, theirs in (
                (middle, "theta", "published"),
                (right, "loss", "published loss"),
            ):
                axes.loglog(rates, [r[ours] for r in of_speed], marker=".", **line)
                axes.loglog(rates, [r[theirs] for r in of_speed], color="#D55E00", **THEIRS)
        if np.any(np.isfinite([row["published"] for row in rows])):
            left.plot([], [], color="#D55E00", label="published", **THEIRS)
        decades(left, 5)
        left.axvline(_LAYER, color="0.6", linewidth=0.8)
        left.set_xlabel(r"time $t = \alpha s$")
        left.set_ylabel(r"distance from the path with $\dot\theta_0 = 0$")
        for axes, of in ((middle, r"\theta"), (right, "L")):
            axes.set_title(f"largest distance in ${of}$ after t = {_LAYER:g}")
            axes.set_xlabel(r"learning rate $\alpha$")
            axes.set_ylabel(rf"$\Delta {of}$")
    return Finding(rows, figure)


def _row(values, pair, rest, away):
    late = since(np.asarray(pair.equation.path.times), _LAYER)
    gap = np.abs(np.asarray(pair.equation.path.loss) - np.asarray(rest.equation.path.loss))
    largest = lambda x: float(np.max(x[late])) if late.any() else float("nan")
    return {
        **values,
        "velocity0": pair.values["velocity0"],
        "theta": largest(away),
        "published": pair.published,
        "loss": largest(gap),
        "published loss": pair.also_published.get("loss", np.nan),
        "at the end": away[-1],
    }
