"""How far the second moment is sure to stay positive, and how far it does."""

import numpy as np

from .._model import SecondOrderAdam
from .._plot import label
from .base import Finding, colour, panels, positive


def positivity(title, pairs, keys):
    """The lemma's condition along the path, beside the second moment itself. (E7)"""
    pairs = [pair for pair in pairs if "positivity_guaranteed" in pair.equation.path.stats]
    rows = []
    with panels(title, 2) as (figure, (left, right)):
        for i, pair in enumerate(pairs):
            path = pair.equation.path
            v, s = np.asarray(path.moments["v"]), np.asarray(path.ts)
            squared = np.asarray(pair.equation.gradient) ** 2
            least, most = np.minimum.accumulate(squared), np.maximum.accumulate(squared)
            ratio = np.divide(least, most, out=np.ones_like(most), where=most > 0)
            sure = np.asarray(path.stats["positivity_guaranteed"])
            until = s[sure][-1] if sure.any() else 0.0
            left.semilogy(s, positive(ratio), color=colour(i), label=label(pair.values, keys))
            right.semilogy(s, positive(v), color=colour(i))
            right.axvline(until, color=colour(i), linewidth=0.8, linestyle=":")
            model = SecondOrderAdam(pair.values["learning_rate"], b2=pair.values["b2"])
            if model.positivity_ratio > 0:
                left.axhline(float(model.positivity_ratio), color="0.6", linewidth=0.8)
            away = v[1:]
            rows.append(
                {
                    **{key: pair.values[key] for key in keys if key in pair.values},
                    "sure until s": until,
                    "last s": s[-1],
                    "least v": away.min(),
                    "times v < 0": int(np.sum(away < 0)),
                    "published": pair.published,
                }
            )
        left.set_ylabel(r"$\min g^2 / \max g^2$ so far")
        right.set_ylabel("$v$")
        left.set_title("condition: above the grey line")
        right.set_title("sure up to the dotted line")
        for axes in (left, right):
            axes.set_xlabel("optimizer step $s$")
    return Finding(rows, figure)
