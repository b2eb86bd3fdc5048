"""The sharpness along equation and discrete run, against what the algorithm can bear."""

import jax
import jax.numpy as jnp
import numpy as np

from .._analysis.stability import stability
from .._plot import label
from .base import Finding, colour, panels, plain, positive, telling


def edge(title, pairs, keys):
    """Both paths of each case: the preconditioned sharpness over its threshold, and the loss."""
    rows, notes, keys = [], [], telling(pairs, keys)
    with panels(title, 2) as (figure, (left, right)):
        for i, pair in enumerate(pairs):
            for j, side in enumerate((pair.equation, pair.discrete)):
                path = jax.tree.map(jnp.asarray, side.path)
                found = stability(pair.model, pair.objective, path)
                who = ("equation", "discrete run")[j]
                name = f"{who}: {label(pair.values, keys)}"
                shown = {"color": colour(2 * i + j), "ls": ("-", "--")[j], "label": name}
                left.semilogy(found.ts, positive(found.ratio), **shown)
                right.semilogy(found.ts, positive(np.asarray(side.path.loss)), **shown)
                rows.append(_row(pair, keys, who, found, side.path))
                notes.append(f"{plain(pair, keys)}: {found.statement}")
        left.axhline(1.0, color="0.5", linewidth=0.9)
        left.set_title("preconditioned sharpness over its threshold")
        left.set_ylabel(r"$\lambda_{\max}(P^{-1} H)$ / threshold")
        right.set_title("loss")
        right.set_ylabel("loss $L$")
        for axes in (left, right):
            axes.set_xlabel("optimizer step $s$")
    return Finding(rows, figure, notes)


def _row(pair, keys, who, found, path):
    known = np.isfinite(found.ratio)
    ratio, tail = found.ratio[known], known.sum() // 2
    return {
        "case": plain(pair, keys),
        "path": who,
        "threshold": float(found.threshold[known][-1]),
        "first above at s": found.first_crossing,
        "part above": float(np.mean(ratio > 1.0)),
        "median ratio, second half": float(np.median(ratio[tail:])),
        "largest there": float(np.max(ratio[tail:])),
        "sharpness at start": float(found.sharpness[known][0]),
        "at end": float(found.sharpness[known][-1]),
        "last loss": float(path.loss[-1]),
    }
