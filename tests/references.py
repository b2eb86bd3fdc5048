"""The equations once more, in plain NumPy and SciPy: what the library's paths are held against.

Nothing here imports the library. Gradients and Hessians are written by hand; the equations are
those of the README, by their tags. Three integrators share the work:

- SciPy's DOP853 in s, for Adam and wherever the path is not stiff;
- DOP853 in x = sqrt(s) with q = v/s as state, for the start of a causal reading;
- collocation at the Radau points (order 13, checked by order 9 in every step), with the direction
  as an unknown of its own, where a path converges, or slides along a surface on which a component
  of the gradient vanishes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from scipy.integrate import solve_ivp
from scipy.special import expit, roots_jacobi


@dataclass(frozen=True)
class Loss:
    """A start, the gradient and the Hessian; both take one row of parameters."""

    theta0: np.ndarray
    gradient: Callable[[np.ndarray], np.ndarray]
    hessian: Callable[[np.ndarray], np.ndarray]


def quadratic(curvature=2.0, minimum=4.0, theta0=1.0) -> Loss:
    c, at, start = np.atleast_1d(curvature), np.atleast_1d(minimum), np.atleast_1d(theta0)
    return Loss(start, lambda y: c * (y - at), lambda y: np.diag(c * np.ones_like(y)))


def double_well() -> Loss:
    return Loss(
        np.array([0.1]), lambda y: y * (y - 1) * (y + 1), lambda y: np.diag(3.0 * y * y - 1.0)
    )


def rosenbrock() -> Loss:
    def gradient(z):
        x, y = z
        return np.array([2.0 * (x - 1.0) + 400.0 * x * (x * x - y), 200.0 * (y - x * x)])

    def hessian(z):
        x, y = z
        return np.array([[2.0 + 1200.0 * x * x - 400.0 * y, -400.0 * x], [-400.0 * x, 200.0]])

    return Loss(np.array([-1.2, 1.0]), gradient, hessian)


def log_cosh() -> Loss:
    return Loss(np.array([3.0]), np.tanh, lambda y: np.diag(np.cosh(y) ** -2))


def logistic(x, y) -> Loss:
    rows = y[:, None] * x

    def gradient(w):
        return -rows.T @ expit(-rows @ w) / len(rows)

    def hessian(w):
        p = expit(rows @ w)
        return (rows.T * (p * (1.0 - p))) @ rows / len(rows)

    return Loss(np.zeros(x.shape[1]), gradient, hessian)


@dataclass(frozen=True)
class AdamRule:
    """(E4); `r1`, `r2` are the kernels' rates."""

    alpha: float
    b1: float
    b2: float
    r1: float
    r2: float
    eps: float = 1e-8


@dataclass(frozen=True)
class RootRule:
    """(E2) and (E3): v' = gain g^2 - loss v, and the root of kept v + fresh g^2 divides."""

    alpha: float
    gain: float
    loss: float
    kept: float
    fresh: float
    eps: float = 1e-8


def adam(alpha, b1, b2, rate="paper") -> AdamRule:
    r1, r2 = (1.0 - b1, 1.0 - b2) if rate == "paper" else (-np.log(b1), -np.log(b2))
    return AdamRule(alpha, b1, b2, r1, r2)


def rmsprop(alpha, b, reading="closure", rate="paper") -> RootRule:
    r = 1.0 - b if rate == "paper" else -np.log(b)
    return RootRule(alpha, r, r, *((b, 1.0 - b) if reading == "closure" else (1.0, 0.0)))


def adagrad(alpha, reading="closure") -> RootRule:
    return RootRule(alpha, 1.0, 0.0, 1.0, 1.0 if reading == "closure" else 0.0)


def solve(rule, loss: Loss, ts) -> np.ndarray:
    """The path at `ts` (from 0, increasing): theta, shape `(T, d)`."""
    return solve_states(rule, loss, ts)[0]


def solve_states(rule, loss: Loss, ts, start=None) -> tuple[np.ndarray, ...]:
    """The path at `ts`: theta and the memories, `(theta, m, v)` or `(theta, v)`, each `(T, d)`.

    `start` is the state at `ts[0]` where that is not 0.
    """
    ts = np.asarray(ts, float)
    if isinstance(rule, AdamRule):
        d = loss.theta0.size
        y0 = np.concatenate([loss.theta0, np.zeros(2 * d)]) if start is None else np.hstack(start)
        path = _dop853(adam_field(rule, loss), y0, ts, 3)
        return path[:, :d], path[:, d : 2 * d], path[:, 2 * d :]
    if start is None and rule.fresh == 0.0:
        return _causal(rule, loss, ts)
    start = (loss.theta0, np.zeros_like(loss.theta0)) if start is None else start
    return collocate(rule, loss, *start, ts)


def adam_field(rule: AdamRule, loss: Loss):
    """(E4) in (theta, m, v), with the limit of its 0/0 at s = 0."""

    def field(s, y):
        theta, m, v = np.split(y, 3)
        g = loss.gradient(theta)
        if s > 0:
            m_hat = m / (-np.expm1(s * np.log(rule.b1)) if rule.b1 > 0 else 1.0)
            v_hat = v / -np.expm1(s * np.log(rule.b2))
        else:
            m_hat = g * (rule.r1 / -np.log(rule.b1) if rule.b1 > 0 else 0.0)
            v_hat = g * g * rule.r2 / -np.log(rule.b2)
        velocity = -rule.alpha * m_hat / (np.sqrt(np.maximum(v_hat, 0.0)) + rule.eps)
        return np.concatenate([velocity, rule.r1 * (g - m), rule.r2 * (g * g - v)])

    return field


def _causal(rule: RootRule, loss: Loss, ts) -> tuple[np.ndarray, ...]:
    """To s = 1 in x = sqrt(s), then in s."""
    early = ts[ts <= 1.0]
    theta0, d = loss.theta0, loss.theta0.size
    g0 = loss.gradient(theta0)
    root = np.sqrt(rule.gain) * np.abs(g0)  # of q, at 0

    def field(x, y):
        theta, q = y[:d], y[d:]
        g = loss.gradient(theta)
        v_rate = rule.gain * g * g - rule.loss * x * x * q
        direction = g / (x * np.sqrt(np.maximum(q, 0.0)) + rule.eps)
        return np.concatenate([-2.0 * rule.alpha * x * direction, 2.0 * (v_rate - q) / x])

    # up to x0 gradient and q are constant to O(x0), and what they move is O(x0) itself: 1e-14
    x0 = 1e-8
    layer = x0 / root - rule.eps / root**2 * np.log1p(x0 * root / rule.eps)
    y0 = np.concatenate([theta0 - 2.0 * rule.alpha * g0 * layer, root**2])
    xs = np.unique(np.concatenate([[x0], np.sqrt(early[early > 0]), [1.0]]))
    path = _dop853(field, y0, xs, 2)
    rows = path[np.searchsorted(xs, np.sqrt(early[early > 0]))]
    theta = np.vstack([theta0[None], rows[:, :d]])
    v = np.vstack([np.zeros((1, d)), rows[:, d:] * early[early > 0, None]])
    late = ts[ts > 1.0]
    if late.size == 0:
        return theta, v
    rest = collocate(rule, loss, path[-1, :d], path[-1, d:], np.concatenate([[1.0], late]))
    return np.vstack([theta, rest[0][1:]]), np.vstack([v, rest[1][1:]])


def _dop853(field, y0, ts, parts) -> np.ndarray:
    """`field` integrated to every one of `ts`, where steps end: dense output is less exact."""
    rows = [np.asarray(y0, float)]
    d = rows[0].size // parts
    # theta, and m, to rounding; the last memory, which divides and may fall by many powers of ten,
    # relative to itself
    atol = np.concatenate([np.full((parts - 1) * d, 1e-15), np.full(d, 1e-28)])
    step = None
    for a, b in pairwise(ts):
        first = None if step is None else min(step, b - a)
        out = solve_ivp(field, (a, b), rows[-1], "DOP853", rtol=1e-13, atol=atol, first_step=first)
        assert out.success, out.message
        rows.append(out.y[:, -1])
        step = max(np.diff(out.t).max(), 1e-300)
    return np.array(rows)


@cache
def _radau(stages: int) -> tuple[np.ndarray, np.ndarray]:
    """The nodes c of Radau IIA, and A with A[i, j] = the integral of basis polynomial j to c[i]."""
    c = np.append((roots_jacobi(stages - 1, 1.0, 0.0)[0] + 1.0) / 2.0, 1.0)
    basis = np.polynomial.Legendre.basis
    values = np.array([basis(k, domain=[0, 1])(c) for k in range(stages)]).T
    integrals = np.array([basis(k, domain=[0, 1]).integ(lbnd=0)(c) for k in range(stages)]).T
    return c, integrals @ np.linalg.inv(values)


@dataclass
class _Step:
    """One step of collocation: the end, the directions at the nodes, and whether Newton arrived."""

    theta: np.ndarray
    v: np.ndarray
    p: np.ndarray
    okay: bool


def _collocation_step(rule: RootRule, loss: Loss, theta0, v0, h, p, stages) -> _Step:
    """Solves p (root + eps) = g at the nodes, where theta' = -alpha p; Newton, exact Jacobian.

    v' is linear in v and so eliminated: v = D (v0 + gain h A g^2), D = (1 + loss h A)^-1.
    """
    _, A = _radau(stages)
    d = theta0.size
    D = np.linalg.inv(np.eye(stages) + rule.loss * h * A)
    B = rule.gain * h * D @ A
    base = (D @ np.ones(stages))[:, None] * v0
    last = np.inf
    for _ in range(25):
        theta = theta0 - rule.alpha * h * (A @ p)
        g = np.array([loss.gradient(row) for row in theta])
        H = np.array([loss.hessian(row) for row in theta.astype(float)])
        v = base + B @ (g * g)
        root = np.sqrt(np.maximum(rule.kept * v + rule.fresh * g * g, 1e-300))
        residual = p * (root + rule.eps) - g
        # derivatives in p[j, l] of g[i, k], then of v[i, k]
        g, root, slope = (x.astype(float) for x in (g, root, p))
        dg = -rule.alpha * h * A[:, None, :, None] * H[:, :, None, :]
        dv = np.einsum("ij,jklm->iklm", B, 2.0 * g[:, :, None, None] * dg)
        half = np.where(root > 1e-150, 0.5 * slope / root, 0.0)
        squared = rule.kept * dv + 2.0 * rule.fresh * g[:, :, None, None] * dg
        J = half[:, :, None, None] * squared - dg
        J = J.reshape(stages * d, stages * d)
        J[np.diag_indices(stages * d)] += (root + rule.eps).ravel()
        try:
            change = np.linalg.solve(J, residual.ravel().astype(float)).reshape(stages, d)
        except np.linalg.LinAlgError:  # the step is too long: a shorter one is tried
            break
        p = p - change
        moved = np.max(np.abs(rule.alpha * h * change) / (1.0 + np.abs(theta0)))
        turned = np.max(np.abs(change))
        if not np.isfinite(turned) or turned > 1e3:
            break
        # where the path slides, rounding of theta alone turns p by 1e-16 H / eps
        if moved < 1e-12 and (turned < 1e-14 or turned > 0.1 * last):
            return _Step(theta0 - rule.alpha * h * (A[-1] @ p), v[-1], p, bool(np.all(v[-1] >= 0)))
        last = turned
    return _Step(theta0, v0, p, False)


def collocate(rule: RootRule, loss: Loss, theta, v, ts, tol=1e-10) -> tuple[np.ndarray, np.ndarray]:
    """(E2), (E3) from the state at `ts[0]`: theta and v at every one of `ts`.

    `tol` is for the difference between orders 13 and 9 in a step, of which the first is kept.
    """
    # long double, where there is one: where a path slides, g is a difference of numbers 1e8 times
    # larger, its square feeds v, and v may grow again from there
    theta, v = np.asarray(theta, np.longdouble), np.asarray(v, np.longdouble)
    thetas, vs = [theta], [v]
    g = loss.gradient(theta)
    p = g / (np.sqrt(rule.kept * v + rule.fresh * g * g) + rule.eps)
    h = 1e-3
    s = ts[0]
    for end in ts[1:]:
        while s < end:
            step = min(h, end - s)
            new, error = _attempt(rule, loss, theta, v, step, p, tol)
            if error <= 1.0:
                theta, v, p = new.theta, new.v, new.p[-1]
                s = end if step == end - s else s + step
            factor = 0.25 if error == np.inf else 0.9 * max(error, 1e-12) ** (-1.0 / 9.0)
            grown = step * min(max(factor, 0.1), 4.0)
            h = max(h, grown) if error <= 1.0 and step < h else grown
            if h < 1e-16:
                raise ArithmeticError(f"collocation stalls at s = {s}, theta = {theta}")
        thetas.append(theta)
        vs.append(v)
    return np.array(thetas, float), np.array(vs, float)


def _attempt(rule, loss, theta, v, h, p, tol) -> tuple[_Step, float]:
    fine = _collocation_step(rule, loss, theta, v, h, np.tile(p, (7, 1)), 7)
    if not fine.okay:
        return fine, np.inf
    # the guess for the lower order: the same polynomial at its nodes
    basis = np.polynomial.legendre.legvander
    to = basis(2.0 * _radau(5)[0] - 1.0, 6) @ np.linalg.inv(basis(2.0 * _radau(7)[0] - 1.0, 6))
    coarse = _collocation_step(rule, loss, theta, v, h, to @ fine.p, 5)
    if not coarse.okay:
        return coarse, np.inf
    in_theta = np.max(np.abs(fine.theta - coarse.theta))
    roots = np.sqrt(fine.v), np.sqrt(coarse.v)
    # where the path slides g is what rounding leaves of it
    allowed = tol * (roots[0] + rule.eps) + 1e4 * np.finfo(np.longdouble).eps
    in_root = np.max(np.abs(roots[0] - roots[1]) / allowed) if rule.kept > 0 else 0.0
    return fine, float(max(in_theta / tol, in_root))
