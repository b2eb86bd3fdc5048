"""A scheme like that behind the published curves of arXiv:2602.09101, to name what they differ by.

It shares no code with the methods. What it has of the authors' program, by its text of 2026: the
rows, the start, Euler's step, where the moments are read, and a relaxed iteration of whole paths.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .._model import Adam, SecondOrderAdam

# Rows per optimizer step.
SUBSTEPS = 5
# The iteration: its first relaxation, how much is added where the error rises, and its end, as a
# root mean square over the rows.
_RELAXATION, _MORE, _MOST = 0.5, 5e-4, 0.9999
_TOLERANCE, _SWEEPS = 1e-8, 3000
# Two rates of a kernel that are equal are taken apart by so much.
_APART = 1e-4


def published_scheme(
    model: Adam | SecondOrderAdam,
    gradient: Callable[[np.ndarray], np.ndarray],
    theta0: float,
    steps: int,
    *,
    start: float = 1.0,
    ahead: bool = True,
) -> np.ndarray:
    r"""Explicit Euler with five rows a step, row k at s = `start` + k/5, memories empty at row 0.

    The memory integrals are exact for a gradient that is a cubic between the rows.

    **Arguments:**

    - `model`: an Adam, or a SecondOrderAdam, with a constant learning rate.
    - `gradient`: of a loss of one parameter, on arrays of it.
    - `theta0`: at row 0.
    - `steps`: up to where, in optimizer steps after the start.
    - `ahead`: whether an equation of second order reads both moments five rows on.

    **Returns:** theta at the rows 0 to 5 `steps`; NaN if the iteration does not converge.
    """
    h, inertial = 1.0 / SUBSTEPS, isinstance(model, SecondOrderAdam)
    velocity0 = float(model.velocity0) if isinstance(model, SecondOrderAdam) else 0.0
    rows = SUBSTEPS * (steps + 2) + 1  # the last ones have nothing ahead of them
    s = start + h * np.arange(rows)
    alpha = float(model.learning_rate)
    b1, b2 = float(model.b1), float(model.b2)
    eps = float(model.eps)
    kernels = [_modes(b, inertial) for b in (b1, b2)]
    safe = np.where(s > 0, s, 1.0)
    first, second = (-np.expm1(safe * np.log(b)) for b in (b1, b2))
    read = np.minimum(np.arange(rows) + (SUBSTEPS if ahead else 0), rows - 1)

    def sweep(theta: np.ndarray) -> np.ndarray:
        g = gradient(theta)
        m, v = _memory(kernels[0], h, g), _memory(kernels[1], h, g * g)
        direction = m / first / (np.sqrt(np.maximum(v, 0.0) / second) + eps)
        if not inertial:
            return theta0 - alpha * h * _before(direction)
        # u' = -2 (u + direction), u being theta' / alpha
        velocity = _filtered(1.0 - 2.0 * h, -2.0 * h * direction[read], velocity0)
        return theta0 + alpha * h * _before(velocity)

    theta, relaxation, last = np.full(rows, float(theta0)), _RELAXATION, np.inf
    for _ in range(_SWEEPS):
        new = sweep(theta)
        error = float(np.sqrt(np.mean((new - theta) ** 2)))
        if error < _TOLERANCE:
            return new[: SUBSTEPS * steps + 1]
        if error > last:
            relaxation = min(_MOST, relaxation + _MORE)
        theta, last = relaxation * theta + (1.0 - relaxation) * new, error
    return np.full(SUBSTEPS * steps + 1, np.nan)


def _modes(b: float, inertial: bool) -> list[tuple[Any, Any]]:
    """A kernel as a sum of exponentials: weights and exponents. (E5), (E7)"""
    if not inertial:
        return [(1.0 - b, b - 1.0)]
    squared = 2.0 * b - 1.0
    kappa = np.sqrt(complex(squared if abs(squared) > _APART**2 else _APART**2))
    kappa = kappa.real if kappa.imag == 0 else kappa
    return [((1.0 - b) / kappa, kappa - 1.0), (-(1.0 - b) / kappa, -kappa - 1.0)]


def _memory(modes: list[tuple[Any, Any]], h: float, feature: np.ndarray) -> np.ndarray:
    """The memory at every row, empty at the first."""
    from scipy.signal import lfilter

    total = np.zeros_like(feature)
    for weight, exponent in modes:
        gained = np.zeros(feature.size, np.result_type(exponent, feature))
        inner = _weights(exponent, h, -1)
        gained[2:-1] = sum(w * feature[i : feature.size - 3 + i] for i, w in enumerate(inner))
        gained[1] = _weights(exponent, h, 0) @ feature[:4]
        gained[-1] = _weights(exponent, h, -2) @ feature[-4:]
        kept = lfilter([1.0], [1.0, -np.exp(exponent * h)], gained)
        total += (weight * np.asarray(kept)).real
    return total


def _weights(exponent: Any, h: float, first: int) -> np.ndarray:
    """Of a feature at four rows, the first of them `first` rows from here: what a row's end has.

    The integral of exp(exponent (h - u)) over u in [0, h] of the cubic through the four.
    """
    x, w = np.polynomial.legendre.leggauss(16)
    u, nodes = 0.5 * (x + 1.0), first + np.arange(4.0)
    weighed = 0.5 * h * w * np.exp(exponent * h * (1.0 - u))
    others = [np.delete(nodes, i) for i in range(4)]
    cubics = [
        np.prod((u[:, None] - rest) / (node - rest), axis=1)
        for node, rest in zip(nodes, others, strict=True)
    ]
    return np.array([weighed @ cubic for cubic in cubics])


def _before(x: np.ndarray) -> np.ndarray:
    """The sum of all entries before each."""
    return np.concatenate([[0.0], np.cumsum(x[:-1])])


def _filtered(kept: float, gained: np.ndarray, start: float) -> np.ndarray:
    """x[k + 1] = kept x[k] + gained[k], from `start`."""
    from scipy.signal import lfilter

    return np.asarray(lfilter([1.0], [1.0, -kept], np.concatenate([[start], gained[:-1]])))
