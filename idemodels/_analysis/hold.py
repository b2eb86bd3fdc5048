"""What a theorem assumes, and whether a run fulfils it."""

from typing import Any, NamedTuple

import numpy as np

from .._model import AbstractModel
from .._results import Trajectory


class Hypothesis(NamedTuple):
    """One assumption of a theorem.

    - `text`: what must hold.
    - `holds`: whether it does; `None` where that cannot be told from the path.
    - `found`: what was found, in words.
    """

    text: str
    holds: bool | None
    found: str


def all_hold(hypotheses: Any) -> bool:
    """Whether each of them is known to hold."""
    return all(h.holds is True for h in hypotheses)


def of_the_equation(trajectory: Trajectory) -> Hypothesis:
    """The theorems are about the equation."""
    words = {
        "equation": "a solved path",
        "discrete": "iterates of the discrete algorithm",
        "arrays": "arrays, which do not say whose path it is",
    }
    holds = {"equation": True, "discrete": False, "arrays": None}[trajectory.source]
    return Hypothesis("the path solves the equation", holds, words[trajectory.source])


def no_weight_decay(model: AbstractModel) -> Hypothesis:
    """Decoupled decay is no part of a gradient."""
    w = float(model.weight_decay)
    return Hypothesis("no decoupled weight decay", w == 0, f"weight_decay = {w:g}")


def rate_does_not_rise(alphas: np.ndarray) -> Hypothesis:
    """A learning rate that grows feeds the energy of the memory."""
    rises = bool(np.any(np.diff(alphas) > 1e-12 * np.max(np.abs(alphas), initial=0.0)))
    found = f"from {alphas[0]:.3g} to {alphas[-1]:.3g}"
    return Hypothesis("the learning rate does not rise", not rises, found)


def constant_rate(model: AbstractModel) -> Hypothesis:
    """No schedule, no `lr_decay`."""
    decay = float(getattr(model, "lr_decay", 0.0))
    scheduled = callable(model.learning_rate)
    found = "a schedule" if scheduled else f"lr_decay = {decay:g}"
    return Hypothesis("the learning rate is constant", not scheduled and decay == 0, found)


def memory_ratio(model: Any) -> Hypothesis:
    """(E10): r2 <= 4 r1, in the paper's rates 1 - b2 <= 4 (1 - b1)."""
    r1, r2 = float(model._b1.rate), float(model._b2.rate)
    return Hypothesis("r2 <= 4 r1", r2 <= 4 * r1, f"r2 / r1 = {r2 / r1:.4g}")


def reads_at_s(model: AbstractModel) -> Hypothesis:
    """Nothing is read one step ahead."""
    ahead = [name for name, memory in model.memories().items() if memory.ahead]
    found = f"{', '.join(ahead)} at s + 1" if ahead else "at s"
    return Hypothesis("the memories are read at s", not ahead, found)
