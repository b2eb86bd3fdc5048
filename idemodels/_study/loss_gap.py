"""The loss above its minimum, as a decay towards a floor."""

import numpy as np

from .._analysis import envelope, fit_decay
from .base import Finding, colour, panels, positive

# In the papers' time: the first part is left out, and oscillations are covered by the largest
# value of so long a window.
_LAYER, _WINDOW = 1.0, 0.1


def loss_gap(title, pairs, keys):
    """Both paths of each case, with the fit $A e^{-\\omega (t - 1)} + B$ from t = 1 on."""
    del keys
    rows = []
    with panels(title, len(pairs)) as (figure, all_axes):
        for axes, pair in zip(all_axes, pairs, strict=True):
            sides = (("equation", pair.equation, "-"), ("discrete run", pair.discrete, (0, (5, 2))))
            for i, (name, side, line) in enumerate(sides):
                t = np.asarray(side.path.times)
                gap = np.asarray(side.path.loss) - pair.least
                axes.semilogy(t, positive(gap), color=colour(i), linestyle=line, label=name)
                late = t >= _LAYER
                upper = envelope(t, gap, _WINDOW)[late]
                if upper.size < 4 or not np.all(upper > 0):
                    continue
                fit = fit_decay(t[late], upper)
                curve = fit.amplitude * np.exp(-fit.rate * (t[late] - t[late][0])) + fit.floor
                axes.semilogy(
                    t[late], curve, color=colour(i + 2), linestyle=line, label=f"fit to {name}"
                )
                rows.append(
                    {
                        "learning_rate": pair.values["learning_rate"],
                        "path": name,
                        "A": fit.amplitude,
                        "omega": fit.rate,
                        "B": fit.floor,
                        "misfit": fit.misfit,
                        "published omega": pair.published,
                    }
                )
            axes.set_title(rf"$\alpha$ = {pair.values['learning_rate']:g}")
            axes.set_xlabel(r"time $t = \alpha s$")
        all_axes[0].set_ylabel(r"$L - \min L$")
    return Finding(rows, figure)
