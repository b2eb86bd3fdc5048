"""How curved the loss is along a run, and what the discrete algorithm can bear."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from .._equation import dtype_of
from .._model import AbstractModel
from .._programs import program
from .._results import Trajectory
from .._second import linearized
from .._types import Objective
from .lanczos import leading
from .linearize import DENSE, Point, not_diagonal, point_of
from .modes import modes
from .response import Response, alpha_at, response
from .rows import rows_of

# The residual of an eigenvector, relative to its value, whose error is about the square of it.
_TOL = 1e-4


class Stability(eqx.Module):
    """The curvature along a path, beside what the discrete algorithm can bear.

    - `ts`: the steps of the path, shape `(T,)`.
    - `sharpness`: the largest eigenvalue of the Hessian, `(T,)`.
    - `preconditioned`: that of $P^{-1} H$, `(T,)`; P as for
        [`idemodels.analysis.linearize`][]. NaN, as the others, where the path is, and at s = 0,
        where the memories are empty.
    - `threshold`: up to where the step map is stable with P held, `(T,)`.
    - `source`: which path it is: "equation", "discrete", or "arrays", which does not say.
    """

    ts: np.ndarray
    sharpness: np.ndarray
    preconditioned: np.ndarray
    threshold: np.ndarray
    source: str = eqx.field(static=True)

    @property
    def ratio(self) -> np.ndarray:
        """`preconditioned` over `threshold`, `(T,)`: unstable above 1."""
        return self.preconditioned / self.threshold

    @property
    def above(self) -> np.ndarray:
        """Where the step map is unstable, `(T,)`."""
        return self.ratio > 1.0

    @property
    def crossings(self) -> np.ndarray:
        """The steps at which `ratio` crosses 1, either way, interpolated between rows."""
        known = np.isfinite(self.ratio)
        s, r = self.ts[known], self.ratio[known] - 1.0
        at = np.flatnonzero((r[:-1] > 0) != (r[1:] > 0))
        return s[at] + (s[at + 1] - s[at]) * r[at] / (r[at] - r[at + 1])

    @property
    def first_crossing(self) -> float:
        """The first of them; NaN if there is none."""
        crossings = self.crossings
        return float(crossings[0]) if crossings.size else float("nan")

    @property
    def statement(self) -> str:
        """What was looked at, and what it says."""
        part = float(np.mean(self.above[np.isfinite(self.ratio)]))
        said = f"{_PATHS[self.source]} Above the discrete threshold at {part:.0%} of its rows"
        first = self.first_crossing
        said += "." if np.isnan(first) else f", first crossed at step {first:.4g}."
        return f"{said} {_MEANING[self.source]}"


_PATHS = {
    "equation": "The path is the equation's.",
    "discrete": "The path is the discrete algorithm's.",
    "arrays": "The path was given as arrays, which do not say whose it is.",
}
_MEANING = {
    "equation": "The equation has no such bound: it is stable wherever the curvature is positive; "
    "the algorithm started there with this preconditioner would not be.",
    "discrete": "Above it, with the preconditioner held, the algorithm moves away along the "
    "sharpest direction, and oscillates.",
    "arrays": "The bound is the discrete algorithm's alone.",
}


def stability(
    model: AbstractModel,
    objective: Objective,
    trajectory: Trajectory,
    *,
    args: PyTree[Any] = None,
) -> Stability:
    r"""The sharpness along a path, and where it crosses what the discrete algorithm can bear.

    With its second moment held the algorithm is stable where the largest eigenvalue of
    $P^{-1} H$ is below $(2 + 2 b_1)/((1 - b_1)\,\alpha)$ for Adam, $2/\alpha$ for RMSProp and
    AdaGrad: Cohen et al. (2022), arXiv:2207.14484. That assumes a quadratic loss and a second
    moment that changes slowly. The equation has no such bound. It holds for either path, and
    `source` and `statement` tell which one was looked at: look at both.

    **Arguments:**

    - `model`: whose moments the path has; its hyperparameters set P and the threshold.
    - `objective`, `args`: as for [`idemodels.solve`][].
    - `trajectory`: of [`idemodels.solve`][] or [`idemodels.run_discrete`][], kept with its moments:
        at every row one Hessian up to 400 parameters, else some products with it (Lanczos' method,
        from the last row's eigenvector).

    **Returns:** a [`Stability`][idemodels.analysis.Stability].

    **Raises:** `ValueError` for an argument that is not as above, or a model whose direction has
    no profile, see [`idemodels.analysis.linearize`][].
    """
    rows = rows_of(model, trajectory)
    point = point_of(model, objective, rows.first, args)
    used = np.flatnonzero(rows.finite & (rows.s > 0))
    if not used.size:
        raise ValueError(
            "Argument `trajectory` must have a finite row past s = 0, where the memories are not "
            "empty, but has none."
        )
    s, thetas, moments = rows.take(used)
    if point.size > DENSE:
        largest, found = _largest_by_lanczos(point, s, thetas, moments)
    else:
        largest, found = _largest_by_matrix(point, s, thetas, moments)
    if not bool(jnp.all(found.fits)):
        raise ValueError(not_diagonal(model, point.size))
    alphas = np.asarray(jax.vmap(lambda s: alpha_at(model, s, dtype_of(point.theta)))(s), float)
    thresholds = [_threshold(model, found, alphas, i) for i in range(used.size)]

    def spread(values):
        full = np.full(rows.s.size, np.nan)
        full[used] = values
        return full

    sharpness, preconditioned = np.asarray(largest, float).T
    return Stability(
        rows.s,
        spread(sharpness),
        spread(preconditioned),
        spread(np.asarray(thresholds)),
        trajectory.source,
    )


def _threshold(model: AbstractModel, found: Response, alphas: np.ndarray, i: int) -> float:
    of_theta, of_gradient = float(found.of_theta[i]), float(found.of_gradient[i])
    shares = {name: float(x[i]) for name, x in found.of_moments.items()}
    return modes(model, float(alphas[i]), of_theta, of_gradient, shares).threshold()


def _at(point: Point, s: Any, theta: PyTree[Array], moments: Any):
    """The gradient's derivative at a row as a function of flat vectors, and the response."""
    model = point.equation.model
    flat, unravel = ravel_pytree(theta)
    g, push = linearized(lambda x: ravel_pytree(point.gradient(unravel(x)))[0], flat)
    found = response(model, point.names, s, theta, unravel(g), moments)
    root = jnp.sqrt(jnp.maximum(ravel_pytree(found.profile)[0], 0.0))
    return push, root, found._replace(profile=jnp.zeros(()))


@program
def _largest_by_matrix(point: Point, s, thetas, moments):
    def row(of):
        push, root, found = _at(point, *of)
        H = jax.vmap(push)(jnp.eye(root.size, dtype=root.dtype))
        H = 0.5 * (H + H.T)
        both = jnp.stack([H, root[:, None] * H * root[None]])
        return jnp.linalg.eigvalsh(both)[:, -1], found

    return jax.lax.map(row, (s, thetas, moments))


@program
def _largest_by_lanczos(point: Point, s, thetas, moments):
    size = point.size
    starts = jnp.broadcast_to(jr.normal(jr.key(0), (1, size), dtype_of(point.theta)), (2, size))

    def row(starts, of):
        push, root, found = _at(point, *of)

        def one(given):
            root, start = given
            top = leading(lambda x: root * push(root * x), start, 1, tol=_TOL, size=12)
            return top.values[0], top.vectors[0]

        values, vectors = jax.lax.map(one, (jnp.stack([jnp.ones_like(root), root]), starts))
        return vectors, (values, found)

    return jax.lax.scan(row, starts, (s, thetas, moments))[1]
