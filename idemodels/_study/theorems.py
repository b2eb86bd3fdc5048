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
                at = pair.at if who == "equation" else slice(None)
                path = _rows(side.path, at)
                found = table_of(pair.model, pair.objective, path, minimum=least)
                # the last is about the discrete algorithm, the others about the equation
                mine = found[:-1] if who == "equation" else found[-1:]
                rows += [{"case": plain(pair, keys), "path": who, **_brief(t)} for t in mine]
            path = _rows(pair.equation.path, pair.at)
            energy = lyapunov(pair.model, path, pair.objective)
            name = label(pair.values, keys)
            shown = {"color": colour(i), "ls": "-" if i < 7 else "--", "label": name}
            V = energy.value
            if not energy.constant:
                left.semilogy(energy.ts, positive((V - V[-1]) / (V[0] - V[-1])), **shown)
            size = np.asarray(energy.gradient, float)
            right.semilogy(energy.ts, positive(size / np.nanmax(size)), **shown)
        for axes, name in ((left, r"$(V - V_{\rm end})/(V_0 - V_{\rm end})$"), (right, None)):
            decades(axes, 12)
            axes.set_xscale("log")
            axes.set_xlabel("optimizer step $s$")
            axes.set_ylabel(name or r"$|g| / \max |g|$")
        left.set_title("Lyapunov function along the equation")
        right.set_title("gradient: LaSalle says it tends to 0")
    return Finding(rows, figure)


def _rows(path, at):
    """The rows at the discrete run's steps: as many on both sides, so that one program does."""
    return jax.tree.map(lambda x: jnp.asarray(x)[at] if np.ndim(x) else jnp.asarray(x), path)


def _brief(theorem):
    """A row in which only what does not hold is listed of the hypotheses."""
    failed = [f"{h.text}: {h.found}" for h in theorem.hypotheses if h.holds is not True]
    row = theorem.row()
    return {**row, "hypotheses": "; ".join(failed) if failed else "all hold"}
