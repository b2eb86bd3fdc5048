"""An equation that starts at s = 1 with empty memories, against one that starts at 0."""

import numpy as np

from .base import Finding, colour, decades, distance, grouped, panels, positive


def shifted_start(title, pairs, keys):
    """The distance of each from the discrete run, row by row, and of both from each other."""
    kept = [key for key in keys if key != "learning_rate"]
    groups = grouped(pairs, kept, "shift", same_steps=True)
    rates = sorted({pair.values["learning_rate"] for pair in pairs}, reverse=True)
    labels = list(dict.fromkeys(group.label for group in groups))
    rows = []
    with panels(title, len(rates)) as (figure, all_axes):
        for group in groups:
            usual = group.pairs[0]
            axes = all_axes[rates.index(usual.values["learning_rate"])]
            for j, pair in enumerate(group.pairs):
                name = f"{group.label}, from s = {pair.values['shift']:g}"
                shown = {
                    "color": colour(labels.index(group.label)),
                    "linestyle": ("-", "--")[j % 2],
                }
                axes.semilogy(pair.discrete.path.times, positive(pair.error), label=name, **shown)
                away = distance(pair.equation, usual.equation).max()
                rows.append(
                    {
                        "learning_rate": pair.values["learning_rate"],
                        **group.values,
                        "start": pair.values["shift"],
                        "largest": pair.error.max(),
                        "last": pair.error[-1],
                        "published last": pair.published,
                        "from usual start": np.nan if pair is usual else away,
                    }
                )
        for axes, rate in zip(all_axes, rates, strict=True):
            decades(axes, 4)
            axes.set_title(rf"$\alpha$ = {rate:g}")
            axes.set_xlabel(r"time $t = \alpha k$")
        all_axes[0].set_ylabel("distance from the discrete run")
    return Finding(rows, figure)
