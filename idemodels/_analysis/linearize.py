"""The spectrum of the equation and of the step map at a point."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from .._checks import check_count
from .._equation import Equation, Fixed, dtype_of
from .._kernel import AbstractMarkovKernel
from .._model import AbstractModel
from .._parameters import as_parameters, check_model, check_objective
from .._programs import program
from .._second import jacobian, linearized
from .._solve import Held
from .._types import Objective, Theta
from .lanczos import leading
from .modes import Linear, matrices, modes, slopes_of
from .response import (
    FAR,
    alpha_at,
    check_step,
    linear_direction,
    moving,
    response,
    with_steady,
)

# Up to so many parameters all eigenvalues are computed, from dense matrices.
DENSE = 400
_TOL = 1e-8


class Linearization(eqx.Module):
    """What small motions do about rest, the second moments held.

    Eigenvalues are in descending order of curvature, all of them up to 400 parameters, else those
    of the largest curvatures.

    - `sharpness`: eigenvalues of the Hessian H (of the gradient as the model sees it, with `l2` and
        `transform`), shape `(k,)`.
    - `preconditioned`: those of $P^{-1} H$, $P^{-1}$ the direction's `profile`, `(k,)`: for Adam
        $P = (1 - b_1^s)(\\sqrt{\\hat v} + \\epsilon)$, for RMSProp $\\sqrt{\\bar v} + \\epsilon$.
        `None` for a direction that does not have this form.
    - `equation`: eigenvalues of the augmented equation in theta and its first moments, unit 1/step,
        complex, `(k * n,)`; stable if all real parts are negative.
    - `discrete`: those of the step map, `(k * m,)`; stable if all are less than 1 in size.
    - `threshold`: the preconditioned curvature up to which the step map is stable; `None` as above.
    - `held`: by name, the eigenvalues of the memories that are held, per parameter: at rest they
        decouple, and are not in `equation`.
    - `complete`: whether all curvatures are there.
    - `alpha`: the learning rate.
    """

    sharpness: np.ndarray
    preconditioned: np.ndarray | None
    equation: np.ndarray
    discrete: np.ndarray
    threshold: float | None
    held: dict[str, np.ndarray]
    complete: bool
    alpha: float

    @property
    def growth(self) -> float:
        """The largest real part in `equation`, unit 1/step."""
        return float(np.max(np.real(self.equation)))

    @property
    def radius(self) -> float:
        """The largest size in `discrete`."""
        return float(np.abs(self.discrete).max())


def linearize(
    model: AbstractModel,
    objective: Objective,
    theta: Theta,
    *,
    args: PyTree[Any] = None,
    moments: Any = None,
    s: Any = None,
    count: int = 5,
) -> Linearization:
    r"""The spectrum of the equation, and of the discrete algorithm's step map, at a point.

    Both are linearised about rest, with the Hessian at `theta` and the second moments held
    (memories whose feature has no slope at g = 0). Where `theta` is an equilibrium that is the
    linearisation itself: second moments are then of second order, and decouple. Elsewhere it is
    the frozen preconditioner of Cohen et al. (2022), arXiv:2207.14484, whose assumption is that
    v changes slowly while theta moves. As v falls towards 0 the preconditioned curvatures grow
    without bound, up to H/eps, and v does not change slowly.

    Per eigenvalue h of $P^{-1} H$, Adam: $\lambda^2 + r_1 \lambda + \alpha r_1 h = 0$ for the
    equation (E4), $\mu^2 - (1 + b_1 - \alpha (1-b_1) h)\,\mu + b_1 = 0$ for the step map; RMSProp
    and AdaGrad: $\lambda = -\alpha h$, $\mu = 1 - \alpha h$. The step map is stable for
    $0 < h < (2 + 2 b_1)/((1 - b_1)\alpha)$ and $0 < h < 2/\alpha$; the equation for all h > 0.
    Decoupled weight decay, a memory of many states and inertia (E6) are carried along.

    **Arguments:**

    - `objective`, `args`: as for [`idemodels.solve`][].
    - `theta`: the point; any pytree, of which the floating arrays move.
    - `moments`: by name, second moments, raw as in `Trajectory.moments`, like `theta`. Those that
        are not given are what they rest at while the gradient stays: $v = g^2$; AdaGrad's sum never
        rests, and must be given.
    - `s`: the optimizer step, for bias corrections and schedules; `None` is far from the start.
    - `count`: how many of the largest curvatures, above 400 parameters: there by Lanczos' method on
        products of the Hessian, to a relative residual of 1e-8.

    **Returns:** a [`Linearization`][idemodels.analysis.Linearization].

    **Raises:** `ValueError` for an argument that is not as above; for more than 400 parameters also
    if the direction's derivative is not diagonal with one profile, or the Hessian not symmetric.
    """
    point = point_of(model, objective, theta, args)
    check_count(count, "count")
    check_step(model, s)
    s = FAR if s is None else float(s)
    g = point.gradient(point.theta)
    moments = with_steady(model, g, moments)
    found = response(model, point.names, s, point.theta, g, moments)
    alpha = float(alpha_at(model, s, dtype_of(point.theta)))
    held = _held(model)
    if point.size > DENSE:
        if not bool(found.fits):
            raise ValueError(not_diagonal(model, point.size))
        sharpness, curvatures = _leading(point, found.profile, count)
        return _separable(model, found, alpha, sharpness, curvatures, held, complete=False)
    H = np.asarray(_hessian(point))
    q = np.asarray(ravel_pytree(found.profile)[0], float)
    symmetric = np.allclose(H, H.T, rtol=0, atol=_room(H) * np.abs(H).max(initial=0.0))
    sharpness = np.linalg.eigvalsh(0.5 * (H + H.T))[::-1] if symmetric else _descending(H)
    if bool(found.fits) and symmetric:
        root = np.sqrt(q)
        curvatures = np.linalg.eigvalsh(root[:, None] * (0.5 * (H + H.T)) * root[None])[::-1]
        return _separable(model, found, alpha, sharpness, curvatures, held, complete=True)
    equation, discrete = _dense(point, model, s, g, moments, H, alpha)
    return Linearization(sharpness, None, equation, discrete, None, held, True, alpha)


class Point(eqx.Module):
    """An objective as the model sees it, and where it is looked at."""

    equation: Equation
    theta: PyTree[Array]
    names: tuple[str, ...] = eqx.field(static=True)

    def gradient(self, theta: PyTree[Array]) -> PyTree[Array]:
        return self.equation.gradient(theta, Fixed(jax.tree.map(lambda _: None, theta)))

    @property
    def size(self) -> int:
        return sum(x.size for x in jax.tree.leaves(self.theta))


def point_of(model: Any, objective: Any, theta: Any, args: Any) -> Point:
    """Checks the arguments that all of these functions share."""
    check_model(model, AbstractModel, "a model such as `idemodels.Adam(0.1)`")
    moving_part, rest = as_parameters(theta)
    check_objective(objective, eqx.combine(moving_part, rest), args)
    return Point(Equation(model, Held(objective, rest), args), moving_part, moving(model))


def not_diagonal(model: AbstractModel, size: int) -> str:
    """Why a model is refused."""
    return (
        f"Argument `model` must have a direction whose derivative in g and in the first moments is "
        f"diagonal, not negative and of one profile for all of them, and in theta a multiple of "
        f"the identity, to be looked at without a dense matrix, but {type(model).__name__} has "
        f"not, and `theta` has {size} parameters. Up to {DENSE} `linearize` takes any."
    )


def _separable(model, found, alpha, sharpness, curvatures, held, *, complete) -> Linearization:
    of_theta, of_gradient = float(found.of_theta), float(found.of_gradient)
    systems = modes(model, alpha, of_theta, of_gradient, found.of_moments)
    growth, multipliers = systems.growth(curvatures), systems.multipliers(curvatures)
    spectra = growth.ravel().astype(complex), multipliers.ravel().astype(complex)
    threshold = systems.threshold()
    return Linearization(sharpness, curvatures, *spectra, threshold, held, complete, alpha)


def _held(model: AbstractModel) -> dict[str, np.ndarray]:
    kernels = {name: memory.kernel for name, memory in model.memories().items()}
    markov = {n: k for n, k in kernels.items() if isinstance(k, AbstractMarkovKernel)}
    found = {n: np.linalg.eigvals(np.asarray(k.state_space()[0], float)) for n, k in markov.items()}
    return {name: values for name, values in found.items() if name not in moving(model)}


@program
def _hessian(point: Point) -> Array:
    flat, unravel = ravel_pytree(point.theta)
    return jacobian(lambda x: ravel_pytree(point.gradient(unravel(x)))[0], flat)


@program
def _leading_pair(point: Point, profile: PyTree[Array], count: int):
    flat, unravel = ravel_pytree(point.theta)
    _, push = linearized(lambda x: ravel_pytree(point.gradient(unravel(x)))[0], flat)
    start, other = jr.normal(jr.key(0), (2, flat.size), flat.dtype)
    apart = jnp.abs(start @ push(other) - other @ push(start))
    size = jnp.linalg.norm(start) * jnp.linalg.norm(push(other))

    def of(root):
        return leading(lambda x: root * push(root * x), start, count, tol=_TOL)

    roots = jnp.stack([jnp.ones_like(flat), jnp.sqrt(ravel_pytree(profile)[0])])
    found = jax.lax.map(of, roots)
    return found.values, apart / size


def _leading(point: Point, profile: PyTree[Array], count: int) -> tuple[np.ndarray, np.ndarray]:
    (sharpness, curvatures), apart = _leading_pair(point, profile, count)
    if float(apart) > _room(np.asarray(sharpness)):
        raise ValueError(
            f"Argument `model` must not transform the gradient so that its derivative is not "
            f"symmetric, with more than {DENSE} parameters, but it is off by {float(apart):.1e} "
            f"of its size with {point.size}."
        )
    return np.asarray(sharpness, float), np.asarray(curvatures, float)


def _room(x: np.ndarray) -> float:
    """How far from symmetric rounding may make a matrix, relative to its size."""
    return 1e5 * float(np.finfo(x.dtype).eps)


def _dense(point, model, s, g, moments, H, alpha) -> tuple[np.ndarray, np.ndarray]:
    """The spectra from whole matrices, for a direction of any form."""
    flat, unravel = ravel_pytree(point.theta)
    names = point.names
    answer = linear_direction(model, names, s, point.theta, g, moments)
    nothing = jnp.zeros_like(flat)

    @jax.jit
    def part(which):
        columns = lambda x: ravel_pytree(
            answer(
                unravel(which[0] * x),
                unravel(which[1] * x),
                {name: unravel(w * x) for name, w in zip(names, which[2:], strict=True)},
            )
        )[0]
        return jax.vmap(columns)(jnp.eye(nothing.size, dtype=nothing.dtype)).T

    chosen = jnp.eye(2 + len(names), dtype=flat.dtype)
    of_theta, of_gradient, *others = (np.asarray(part(row), float) for row in chosen)
    pull = of_theta + of_gradient @ H + float(model.weight_decay) * np.eye(flat.size)
    shares = dict(zip(names, others, strict=True))
    found = matrices(model, alpha, Linear(pull, shares, slopes_of(model), np.asarray(H, float)))
    equation, discrete = (np.linalg.eigvals(M).astype(complex) for M in found)
    return equation, discrete


def _descending(H: np.ndarray) -> np.ndarray:
    values = np.linalg.eigvals(H)
    return values[np.argsort(-values.real)]
