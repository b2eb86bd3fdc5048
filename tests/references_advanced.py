"""The advanced equation once more, in NumPy and SciPy: what `FixedPoint` is held against.

Nothing here imports the library. One global system instead of sweeps: parameter and moment are
polynomials through Chebyshev points in elements of which a whole number makes a step, so that s + 1
is a point again; the equation is asked for at every point, and Newton's method with the sparse
Jacobian written by hand solves for all of them at once. For one parameter.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import spsolve

# Steps past the end; there the moment is foretold from the gradient at the same point.
_EXTENSION = 12


@dataclass(frozen=True)
class Advanced:
    """theta' = -alpha g / (sqrt(v(s+1)) + eps), v' = gain g^2 - loss v, v(0) = 0."""

    alpha: float
    gain: float
    loss: float
    gradient: Callable[[np.ndarray], np.ndarray]
    hessian: Callable[[np.ndarray], np.ndarray]
    theta0: float
    eps: float = 1e-8


def rmsprop(alpha, b, gradient, hessian, theta0) -> Advanced:
    return Advanced(alpha, 1.0 - b, 1.0 - b, gradient, hessian, theta0)


def adagrad(alpha, gradient, hessian, theta0) -> Advanced:
    return Advanced(alpha, 1.0, 0.0, gradient, hessian, theta0)


def solve(problem: Advanced, steps: int, points: int = 12, per_step: int = 2):
    """The path at the integers 0 .. `steps`: theta and v, shape `(steps + 1,)`."""
    system = _System(problem, steps + _EXTENSION, points, per_step)
    theta, v = system.closure()
    # from the closure's foretelling to what lies ahead
    for share in (0.0, 0.5, 1.0):
        theta, v = system.newton(theta, v, share)
    at = np.arange(steps) * per_step
    rows = lambda x: np.append(x[at, 0], x[at[-1] + per_step, 0])
    return rows(theta), rows(v)


class _System:
    def __init__(self, problem: Advanced, steps: int, points: int, per_step: int):
        self.problem, self.per_step = problem, per_step
        self.elements, self.points = steps * per_step, points
        x = 0.5 - 0.5 * np.cos(np.pi * np.arange(points) / (points - 1))
        self.x = x
        self.D = _differentiation(x) * per_step  # per optimizer step
        fade = problem.loss if problem.loss > 0 else 0.0
        self.kept = np.exp(-fade)
        self.fresh = (1.0 - self.kept) / fade * problem.gain if fade > 0 else problem.gain

    def closure(self):
        """A start: linearly implicit Euler for the closure, fine enough to begin with."""
        p, fine = self.problem, 8
        theta, v, rows = p.theta0, 0.0, []
        h = 1.0 / (self.per_step * fine)
        for _ in range(self.elements * fine):
            rows.append((theta, v))
            g, H = p.gradient(theta), p.hessian(theta)
            root = np.sqrt(self.kept * v + self.fresh * g * g) + p.eps
            v = (v + h * p.gain * g * g) / (1.0 + h * p.loss)
            rate = p.alpha / root * self.kept * v / (self.kept * v + self.fresh * g * g + 1e-300)
            theta = theta - h * p.alpha * g / root / (1.0 + h * rate * H)
        rows.append((theta, v))
        at = (np.arange(self.elements)[:, None] + self.x[None]) * fine
        grid = np.arange(len(rows))
        return tuple(np.interp(at, grid, column) for column in np.array(rows).T)

    def newton(self, theta, v, share):
        for _ in range(60):
            step_theta, step_v = self._step(theta, v, share)
            # a moment falls by no more than nine tenths in an iteration
            shrink = np.min(
                np.where(step_v > 0.9 * v, 0.9 * v / np.maximum(step_v, 1e-300), 1.0)[v > 1e-200],
                initial=1.0,
            )
            factor = max(shrink, 0.1)
            theta, v = theta - factor * step_theta, v - factor * step_v
            v = np.maximum(v, 0.0)
            if np.max(np.abs(step_theta)) < 1e-13 and factor == 1.0:
                return theta, v
        raise ArithmeticError(f"Newton stalls: {np.max(np.abs(step_theta))}")

    def _step(self, theta, v, share):
        """Newton's step of everything: both equations at all points but the first of an element."""
        p, m, n = self.problem, self.elements, self.points
        g, H = p.gradient(theta), p.hessian(theta)
        foretold = self.kept * v + self.fresh * g * g
        ahead = np.concatenate([v[self.per_step :], foretold[m - self.per_step :]])
        w = np.maximum(share * ahead + (1.0 - share) * foretold, 1e-300)
        root = np.sqrt(w) + p.eps
        # the equation times its root; derivatives below row by row
        velocity = theta @ self.D.T
        first = velocity * root + p.alpha * g
        second = v @ self.D.T + p.loss * v - p.gain * g * g
        half = 0.5 * velocity / np.sqrt(w + 1e-22)  # below that eps rules
        own = np.where(np.arange(m)[:, None] >= m - self.per_step, 1.0, 1.0 - share)
        size = 2 * m * n
        index = np.arange(m * n).reshape(m, n)
        rows, columns, values = [], [], []

        def add(row, column, value):
            row, column, value = np.broadcast_arrays(row, column, value)
            rows.append(row.ravel())
            columns.append(column.ravel())
            values.append(value.ravel())

        inner = index[:, 1:]
        wide = inner[:, :, None], index[:, None, :]
        add(2 * wide[0], 2 * wide[1], root[:, 1:, None] * self.D[None, 1:])
        dg = (p.alpha * H + half * own * self.fresh * 2.0 * g * H)[:, 1:]
        add(2 * inner, 2 * inner, dg)
        add(2 * inner, 2 * inner + 1, (half * own * self.kept)[:, 1:])
        later = index[self.per_step :, 1:]
        add(2 * inner[: m - self.per_step], 2 * later + 1, share * half[: m - self.per_step, 1:])
        add(2 * wide[0] + 1, 2 * wide[1] + 1, np.broadcast_to(self.D[None, 1:], (m, n - 1, n)))
        add(2 * inner + 1, 2 * inner + 1, np.full(inner.shape, p.loss))
        add(2 * inner + 1, 2 * inner, (-2.0 * p.gain * g * H)[:, 1:])
        start = index[:, 0]
        for k in (0, 1):
            add(2 * start + k, 2 * start + k, 1.0)
            add(2 * start[1:] + k, 2 * index[:-1, -1] + k, -1.0)
        residual = np.zeros((m, n, 2))
        residual[:, 1:, 0], residual[:, 1:, 1] = first[:, 1:], second[:, 1:]
        residual[0, 0] = theta[0, 0] - p.theta0, v[0, 0]
        residual[1:, 0, 0], residual[1:, 0, 1] = (x[1:, 0] - x[:-1, -1] for x in (theta, v))
        entries = tuple(map(np.concatenate, (values, rows, columns)))
        J = sp.csc_matrix((entries[0], entries[1:]), shape=(size, size))
        step = spsolve(J, residual.ravel()).reshape(m, n, 2)
        return step[..., 0], step[..., 1]


def _differentiation(x: np.ndarray) -> np.ndarray:
    """The matrix that differentiates polynomials given at the points x (barycentric)."""
    apart = x[:, None] - x[None, :] + np.eye(x.size)
    weights = 1.0 / np.prod(apart, axis=1)
    D = weights[None, :] / weights[:, None] / apart
    np.fill_diagonal(D, 0.0)
    np.fill_diagonal(D, -D.sum(axis=1))
    return D
