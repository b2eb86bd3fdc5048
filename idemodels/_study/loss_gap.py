"""The loss above its minimum, as a decay towards a floor."""

import numpy as np

from .._analysis import Decay, bound_decay, envelope, fit_decay, since
from .base import Finding, colour, decades, panels, positive

# In the papers' time: the first part is left out, oscillations are covered by the largest value of
# so long a window, and the floor of the bound is the largest value of the last part.
_LAYER, _WINDOW, _TAIL = 1.0, 0.1, 1.7
# A published bound in a config: `published` is omega of the equation, and these of `also_published`
# the rest.
_PUBLISHED = {
    "equation": ("A", "omega", "B"),
    "discrete run": ("discrete A", "discrete omega", "discrete B"),
}


def loss_gap(title, pairs, keys):
    """Both paths of each case; a fit, and a bound as the authors make it, from t = 1 on."""
    del keys
    rows, pairs = [], sorted(pairs, key=lambda pair: pair.values["learning_rate"])
    with panels(title, len(pairs)) as (figure, all_axes):
        for axes, pair in zip(all_axes, pairs, strict=True):
            sides = {"equation": pair.equation, "discrete run": pair.discrete}
            for i, (name, side) in enumerate(sides.items()):
                t = np.asarray(side.path.times)
                gap = np.maximum(np.asarray(side.path.loss) - pair.least, 0.0)
                axes.semilogy(t, positive(gap), color=colour(i), ls=("-", "--")[i], label=name)
                late = since(t, _LAYER)
                upper = envelope(t, gap, _WINDOW)[late]
                if np.count_nonzero(late) < 4 or np.isnan(pair.least):
                    continue
                fit, bound = fit_decay(t[late], upper), bound_decay(t[late], upper, _TAIL)
                known = {"omega": pair.published, **pair.also_published}
                theirs = Decay(*(known.get(key, np.nan) for key in _PUBLISHED[name]))
                rows.append(_row(pair, name, fit, bound, theirs))
                curves = {"fit": fit, "bound": bound, "published bound": theirs}
                for j, (what, curve) in enumerate(curves.items() if i == 0 else ()):
                    if np.all(np.isfinite(curve)):
                        shown = {"color": colour(2 + j), "ls": ("-", "-", ":")[j], "label": what}
                        axes.semilogy(t[late], positive(curve.at(t[late])), **shown)
            decades(axes, 10)
            axes.set_title(rf"$\alpha$ = {pair.values['learning_rate']:g}")
            axes.set_xlabel(r"time $t = \alpha s$")
            axes.set_ylabel(r"$L - \min L$")
    return Finding(rows, figure)


def _row(pair, name: str, fit: Decay, bound: Decay, theirs: Decay):
    return {
        "learning_rate": pair.values["learning_rate"],
        "path": name,
        "fit: A": fit.amplitude,
        "omega": fit.rate,
        "B": fit.floor,
        "bound: A": bound.amplitude,
        "its omega": bound.rate,
        "its B": bound.floor,
        "published A": theirs.amplitude,
        "published": theirs.rate,
        "published B": theirs.floor,
    }
