"""One figure of flows: the error at every step, beside that of the paper's equation."""

from pathlib import Path
from typing import Any

import numpy as np

_ORDERS = (1, 2, 3)


def draw(path: Path) -> None:
    """Draws the parabola and the digits network."""
    import jax
    import matplotlib

    import idemodels as ide

    jax.config.update("jax_enable_x64", True)
    matplotlib.use("agg")
    from matplotlib.figure import Figure

    digits = ide.DigitsMLP()
    cases = (
        ("a parabola", ide.Quadratic(), 1.0, 0.01, 600, np.arange(601.0), 1e-9),
        ("the digits network", digits, digits.theta0, 1e-3, 400, np.arange(0, 401.0, 4), 1e-6),
    )
    with matplotlib.rc_context({"svg.hashsalt": "idemodels", "font.size": 8}):
        figure = Figure(figsize=(9.0, 3.4), layout="constrained")
        panels = figure.subplots(1, len(cases))
        for axes, (title, *case) in zip(panels, cases, strict=True):
            _panel(axes, *case)
            axes.set_title(rf"{title}, Adam .9/.999, $\alpha$ = {case[2]:g}")
            axes.set_xlabel("optimizer step $s$")
        panels[0].set_ylabel("largest distance from the discrete run")
        panels[0].legend(fontsize=7)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


def _panel(
    axes: Any, objective: Any, theta0: Any, alpha: float, steps: int, ts: Any, rtol: float
) -> None:
    import optax

    import idemodels as ide

    method, model = ide.Markov(rtol=rtol, atol=1e-2 * rtol), ide.Adam(alpha)
    run = ide.run_discrete(model, objective, theta0, steps, ts=ts)
    error = lambda path: np.asarray(ide.compare(path, run).error)
    equations = {
        "the paper's equation": (model, "0.4"),
        "with the matched rate": (ide.Adam(alpha, rate="matched"), "0.7"),
    }
    for label, (equation, color) in equations.items():
        path = ide.solve(equation, objective, theta0, ts, method=method)
        axes.semilogy(ts, _positive(error(path)), color=color, label=label, lw=1.2)
    flows = (ide.InterpolatingFlow(optax.adam(alpha), p, check=False) for p in (*_ORDERS, 4))
    paths = [ide.solve(flow, objective, theta0, ts, method=method) for flow in flows]
    for p, color in zip(_ORDERS, ("tab:blue", "tab:green", "tab:red"), strict=True):
        path, finer = paths[p - 1], paths[p]  # as `predict_error` does, which would solve all twice
        label, foretold = f"flow of order {p}; dashed: foretold", ide.compare(finer, path).error
        axes.semilogy(ts, _positive(error(path)), color=color, label=label, lw=1.2)
        axes.semilogy(ts, _positive(np.asarray(foretold)), color=color, ls="--", lw=0.9)
    axes.set_ylim(bottom=1e-9)


def _positive(y: np.ndarray) -> np.ndarray:
    return np.where(y > 0, y, np.nan)
