"""How cases are told apart: colours that everybody can, line styles, and words."""

from collections.abc import Iterable, Mapping
from typing import Any

# Okabe & Ito (2008), "Color Universal Design"; black first, and without the yellow, which is too
# faint for a line on white.
COLOURS = ("#000000", "#E69F00", "#0072B2", "#CC79A7", "#009E73", "#D55E00", "#56B4E9")
LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.3)), (0, (5, 2, 1, 2)))

# Fixed, so that the same numbers give the same file.
RC: Any = {
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.5,
    "legend.fontsize": 9.0,
    "figure.titlesize": 11.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.4,
    "svg.hashsalt": "idemodels",
    "svg.fonttype": "path",
}

_NAMES = {
    "learning_rate": r"$\alpha$",
    "b1": "$b_1$",
    "b2": "$b_2$",
    "decay": "$b$",
    "eps": r"$\epsilon$",
    "l2": r"$\lambda$",
    "theta0": r"$\theta_0$",
    "velocity0": r"$\dot\theta_0$",
}
_WORDS = {
    "adam": "Adam",
    "rmsprop": "RMSProp",
    "adagrad": "AdaGrad",
    "second_order_adam": "second order",
}


def label(values: Mapping[str, Any], keys: Iterable[str]) -> str:
    """Such as "Adam, b1 = 0.9, b2 = 0.99"; keys that a case lacks are left out."""
    return ", ".join(_words(key, values[key]) for key in keys if key in values)


def _words(key: str, value: Any) -> str:
    if key in ("model", "objective"):
        return _WORDS.get(value, str(value))
    if isinstance(value, str):
        return f"{value} {key}"
    shown = f"{value:g}" if isinstance(value, int | float) else str(value)
    return f"{_NAMES.get(key, key)} = {shown}"
