"""The linear system of one curvature: continuous, discrete, and where the discrete one breaks."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .._model import AbstractModel, MemoryModel
from .response import moving, slope_of

# Curvatures at which it is asked whether an oscillation breaks before the flip does.
_GRID, _HALVINGS = 100, 60
# Where there is no flip they are looked for up to here.
_FAR = 1e12
# A multiplier of size 1, but for rounding.
_ONE = 1.0 + 1e-12


class Modes(NamedTuple):
    r"""$\theta$ and its first moments along one eigenvector, of curvature h.

    The equation's matrix is `equation[0] + h equation[1]`, the step map's
    `discrete[0] + h discrete[1]`.
    """

    equation: tuple[np.ndarray, np.ndarray]
    discrete: tuple[np.ndarray, np.ndarray]

    def growth(self, h: Any) -> np.ndarray:
        """The equation's eigenvalues, unit 1/step, shape `(*h, n)`."""
        return _spectrum(self.equation, h)

    def multipliers(self, h: Any) -> np.ndarray:
        """The step map's, shape `(*h, m)`."""
        return _spectrum(self.discrete, h)

    def threshold(self) -> float:
        """The curvature up to which the step map is stable.

        At -1 its characteristic polynomial is linear in the curvature: that gives the flip. A
        pair on the unit circle may come before: it is looked for.
        """
        M0, M1 = self.discrete
        one = np.eye(len(M0))
        at_0, at_1 = np.linalg.det(M0 + one), np.linalg.det(M0 + M1 + one)
        flip = -at_0 / (at_1 - at_0) if at_1 != at_0 else np.inf
        top = flip if 0 < flip < np.inf else _FAR
        below = top * np.geomspace(1e-4 if top == flip else 1e-18, 1.0 - 1e-9, _GRID)
        broken = self.radius(below) > _ONE
        if not broken.any():
            return float(top) if top == flip else float("inf")
        i = int(np.argmax(broken))
        low, high = (below[i - 1] if i else 0.0), below[i]
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            low, high = (low, middle) if self.radius(middle) > _ONE else (middle, high)
        return float(high)

    def radius(self, h: Any) -> Any:
        """The largest multiplier in size, shape of `h`."""
        return np.abs(self.multipliers(h)).max(axis=-1)


class Linear(NamedTuple):
    """The direction's derivative, and the gradient's, as matrices `(n, n)`.

    - `pull`: in theta, by way of the gradient and of weight decay too.
    - `shares`: in each first moment; `slopes`: of their features.
    - `hessian`: of the gradient in theta.
    """

    pull: np.ndarray
    shares: dict[str, np.ndarray]
    slopes: dict[str, float]
    hessian: np.ndarray


def modes(
    model: AbstractModel, alpha: float, of_theta: float, of_gradient: float, of_moments: Any
) -> Modes:
    """The systems of a `Response`, by its coefficients."""
    slopes = slopes_of(model)
    shares = {name: np.full((1, 1), float(of_moments[name])) for name in slopes}

    def at(h):
        pull = of_theta + float(model.weight_decay) + of_gradient * h
        return matrices(model, alpha, Linear(np.full((1, 1), pull), shares, slopes, np.eye(1) * h))

    flat, curved = at(0.0), at(1.0)
    pairs = ((M0, M1 - M0) for M0, M1 in zip(flat, curved, strict=True))
    return Modes(*pairs)


def matrices(model: AbstractModel, alpha: float, linear: Linear) -> tuple[np.ndarray, np.ndarray]:
    """Of the equation, theta and the states of its first moments, and of the discrete step.

    The equation: theta' = -alpha (pull theta + sum S C z), z' = A z + B H theta; of second order
    (E6): theta'' = 2 (that - theta'). The step: z <- E z + W H theta, and then
    theta <- theta - alpha (pull theta + sum S C z).
    """
    pull, shares, slopes, H = linear
    one = np.eye(len(H))
    rows, corner = [], -alpha * pull
    steps, corner_step = [], one - alpha * pull
    for name, share in shares.items():
        kernel = model.memories()[name].markov
        A, B, C = (np.asarray(x, float) for x in kernel.state_space())
        rows.append((np.kron(A, one), np.kron(slopes[name] * B[:, None], H)))
        rows[-1] += (-alpha * np.kron(C[None], share),)
        E, W, C = _step_of(model, kernel, C)
        steps.append((np.kron(E, one), np.kron(slopes[name] * W[:, None], H)))
        steps[-1] += (-alpha * np.kron((C @ E)[None], share),)
        corner_step = corner_step - alpha * (C @ W) * slopes[name] * share @ H
    equation = _assembled(corner, rows)
    return (_inertial(equation, one) if model.inertial else equation), _assembled(
        corner_step, steps
    )


def slopes_of(model: AbstractModel) -> dict[str, float]:
    """The features' slopes at g = 0, of the memories that move."""
    return {name: float(slope_of(model.memories()[name])) for name in moving(model)}


def _assembled(corner: np.ndarray, rows: list[Any]) -> np.ndarray:
    n = len(corner)
    size = n + sum(len(A) for A, _, _ in rows)
    M = np.zeros((size, size))
    M[:n, :n] = corner
    at = n
    for A, of_theta, to_theta in rows:
        own = slice(at, at + len(A))
        M[own, own], M[own, :n], M[:n, own] = A, of_theta, to_theta
        at += len(A)
    return M


def _inertial(M: np.ndarray, one: np.ndarray) -> np.ndarray:
    """(E6), with the velocity as the last states."""
    n, size = len(one), len(M)
    larger = np.zeros((size + n, size + n))
    larger[n:size, :size] = M[n:]
    larger[:n, size:], larger[size:, size:] = one, -2.0 * one
    larger[size:, :size] = 2.0 * M[:n]
    return larger


def _step_of(model: Any, kernel: Any, C: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the discrete algorithm does to a first moment, z <- E z + W g, and how it reads it."""
    if isinstance(model, MemoryModel):  # its twin propagates the kernel exactly
        E, W = kernel.propagator(jnp.ones(()), 0)
        return np.asarray(E, float), np.asarray(W, float)[0], C
    left = float(model._b1.complement)
    return np.array([[float(model.b1)]]), np.array([left]), np.ones(1)


def _spectrum(pair: tuple[np.ndarray, np.ndarray], h: Any) -> np.ndarray:
    h = np.asarray(h, float)
    return np.linalg.eigvals(pair[0] + h[..., None, None] * pair[1])
