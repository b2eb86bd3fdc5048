"""Each theorem along each run: what it assumes, what it says, what was measured."""

import jax
import jax.numpy as jnp
import numpy as np

from .._analysis.lyapunov import lyapunov
from .._analysis.theorems import theorems as table_of
from .._plot import label
from .base import Finding, colour, decades, panels, plain, positive, telling


def theorems(title, pairs, keys):
    """The table for both paths of each case, and V and the gradient along the equation's."""
    rows, keys = [], telling(pairs, keys)
    with panels(title, 2) as (figure, (left, right)):
        for i, pair in enumerate(pairs):
            least = None if np.isnan(pair.least) else pair.least
            for side, who in ((pair.equation, "equation"), (pair.discrete, "discrete run")):
                path = jax.tree.map(jnp.asarray, side.path)
                found = table_of(pair.model, pair.objective, path, minimum=least)
                rows += [
                    {"case": plain(pair, keys), "path": who, **_brief(t)}
                    for t in found
                    if who == "equation" or t.applies or t.hypotheses[0].holds
                ]
            path = jax.tree.map(jnp.asarray, pair.equation.path)
            energy = lyapunov(pair.model, path, pair.objective)
            name = label(pair.values, keys)
            shown = {"color": colour(i), "ls": "-" if i < 7 else "--", "label": name}
            V = energy.value
            if not energy.constant:
                left.semilogy(energy.ts, positive((V - V[-1]) / (V[0] - V[-1])), **shown)
            size = energy.gradient
            right.semilogy(energy.ts, positive(size / np.nanmax(size)), **shown)
        for axes, name in ((left, r"$(V - V_{\rm end})/(V_0 - V_{\rm end})$"), (right, None)):
            decades(axes, 12)
            axes.set_xscale("symlog", linthresh=1.0)
            axes.set_xlabel("optimizer step $s$")
            axes.set_ylabel(name or r"$|g| / \max |g|$")
        left.set_title("Lyapunov function along the equation")
        right.set_title("gradient: LaSalle says it tends to 0")
    return Finding(rows, figure)


def _brief(theorem):
    """A row in which only what does not hold is listed of the hypotheses."""
    failed = [f"{h.text}: {h.found}" for h in theorem.hypotheses if h.holds is not True]
    row = theorem.row()
    return {**row, "hypotheses": "; ".join(failed) if failed else "all hold"}
