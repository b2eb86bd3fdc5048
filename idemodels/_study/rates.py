"""How fast the loss falls, and how that depends on the memories and the learning rate."""

import jax
import jax.numpy as jnp
import numpy as np

from .._analysis.convergence import convergence
from .._plot import label
from .base import Finding, colour, decades, grouped, panels, positive, telling

# Oscillation is covered by the largest gap over so much of the papers' time.
_WINDOW = 1.0


def rates(title, pairs, keys):
    """A fit to both paths of each case, the proved bound, and the rates over the learning rate."""
    rows, names = [], [key for key in telling(pairs, keys) if key != "learning_rate"]
    with panels(title, 2) as (figure, (left, right)):
        for i, group in enumerate(grouped(pairs, keys, "learning_rate")):
            shown = {"color": colour(i), "ls": "-" if i < 7 else "--"}
            found = [_both(pair) for pair in group.pairs]
            for pair, sides in zip(group.pairs, found, strict=True):
                rows += [_row(group.values, pair, *side) for side in sides.items()]
            equation = found[0]["equation"]
            t = np.asarray(group.pairs[0].equation.path.times)
            name = label(group.pairs[0].values, names)
            left.semilogy(t, positive(equation.gap), **shown, label=name)
            at = [pair.values["learning_rate"] for pair in group.pairs]
            for who, marker in (("equation", "."), ("discrete run", "x")):
                speed = [_speed(sides[who], a) for sides, a in zip(found, at, strict=True)]
                right.semilogx(at, speed, marker=marker, **shown)
        right.plot([], [], "x", color="0.35", label="discrete run")
        decades(left, 14)
        left.set_title("loss gap along the equation, smallest rate")
        left.set_xscale("log")
        right.set_yscale("log")
        left.set_xlabel(r"time $t = \alpha s$")
        left.set_ylabel(r"$L - \min L$")
        right.set_title("where an exponential fits best")
        right.set_xlabel(r"learning rate $\alpha$")
        right.set_ylabel(r"rate $\omega / \alpha$, per unit of $t$")
    return Finding(rows, figure)


def _both(pair):
    least = None if np.isnan(pair.least) else pair.least
    window = _WINDOW / pair.values["learning_rate"]
    swings = pair.values["model"] in ("adam", "second_order_adam")
    return {
        who: convergence(
            jax.tree.map(jnp.asarray, side.path),
            pair.model,
            pair.objective,
            minimum=least,
            window=window if swings else 0.0,
        )
        for who, side in (("equation", pair.equation), ("discrete run", pair.discrete))
    }


def _speed(found, alpha):
    return np.nan if found.best == "power" else found.fit.rate.value / alpha


def _row(values, pair, who, found):
    alpha, fit = pair.values["learning_rate"], found.fit
    scale = 1.0 if found.best == "power" else alpha
    bound = np.nan if found.bound is None else float(found.bound[-1])
    return {
        **values,
        "learning_rate": alpha,
        "path": who,
        "law": found.best,
        "rate per t, or exponent": fit.rate.value / scale,
        "from": fit.rate.low / scale,
        "to": fit.rate.high / scale,
        "scatter": fit.deviation,
        "PL mu": found.pl,
        "KL exponent": found.kl,
        "proved: gap at most": bound,
        "measured gap": float(found.gap[-1]),
        "kept": {True: "yes", False: "no", None: "-"}[found.bound_holds],
    }
