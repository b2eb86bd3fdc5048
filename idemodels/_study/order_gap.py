"""The path of second order against that of first order."""

import numpy as np

from .base import Finding, colour, distance, panels


def order_gap(title, pairs, keys):
    r"""Their distance against the regime, and against the kernel's form.

    The regime is the authors' $\max(\alpha, (\alpha/(1-b_1))^2, \alpha/(1-b_2))$; the form is
    $2 b_2 - 1$, which is $\kappa^2$ where positive and $-\rho^2$ where negative. (E7)
    """
    first = {_key(p): p for p in pairs if p.values["model"] == "adam"}
    rows = []
    for pair in pairs:
        partner = first.get(_key(pair))
        if pair.values["model"] != "second_order_adam" or partner is None:
            continue
        away = distance(pair.equation, partner.equation)
        alpha, b1, b2 = (float(pair.values[key]) for key in ("learning_rate", "b1", "b2"))
        rows.append(
            {
                "learning_rate": alpha,
                "b1": b1,
                "b2": b2,
                "regime": max(alpha, (alpha / (1 - b1)) ** 2, alpha / (1 - b2)),
                "2 b2 - 1": 2 * b2 - 1,
                "distance": away.max(),
                "at s": float(pair.equation.path.ts[np.argmax(away)]),
                "first: error": partner.error.max(),
                "second: error": pair.error.max(),
            }
        )
    what = ("distance", "first: error", "second: error")
    names = ("between both", "first order, from discrete run", "second order, from discrete run")
    with panels(title, 2) as (figure, (left, right)):
        for axes, x, of in ((left, "regime", _betas), (right, "2 b2 - 1", _rate)):
            chosen = [row for row in rows if sum(of(r) == of(row) for r in rows) > 1]
            for group in dict.fromkeys(map(of, chosen)):
                line = sorted((r for r in chosen if of(r) == group), key=lambda r: r[x])
                for i, (key, name) in enumerate(zip(what, names, strict=True)):
                    y = [row[key] for row in line]
                    axes.semilogy([row[x] for row in line], y, ".-", color=colour(i), label=name)
            axes.set_title("; ".join(dict.fromkeys(_title(of(row)) for row in chosen)))
        left.set_xscale("log")
        left.set_xlabel(r"$\max(\alpha, (\alpha/(1-b_1))^2, \alpha/(1-b_2))$")
        left.set_ylabel(r"largest distance in $\theta$")
        right.set_xlabel(r"$2 b_2 - 1$: $\kappa^2$, or $-\rho^2$")
    return Finding(rows, figure)


def _key(pair):
    values = [pair.values[key] for key in ("objective", "learning_rate", "b1", "b2")]
    return (*values, pair.values.get("theta0"), float(pair.discrete.path.ts[-1]))


def _betas(row):
    return (("b_1", row["b1"]), ("b_2", row["b2"]))


def _rate(row):
    return ((r"\alpha", row["learning_rate"]), ("b_1", row["b1"]))


def _title(group):
    return ", ".join(f"${name}$ = {value:g}" for name, value in group)
