"""Collocation of an advanced equation: the elements, and one sweep over them.

In an element of length h the direction is a polynomial through p Radau points, and so is the
feature of each memory; parameters follow by integration, memories by their kernels' exact
propagation. Radau IIA with p = 6: order 11 at the ends of the elements, L-stable (Hairer & Wanner,
*Solving Ordinary Differential Equations II*, IV.5).
"""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._equation import Augmented, Equation, cast, dtype_of, fraction_of
from .._kernel import AbstractMarkovKernel, Memory
from .._types import Count, Flag, Path, Scalar
from .linear import Quiet
from .norms import largest
from .rate import Usable, at_all, panels

STAGES = 6
# Up to so many unknowns an element's equations are solved with a dense matrix.
_DENSE = 256
# Panels of Gauss's rule between neighbouring nodes, where the learning rate varies.
_PANELS = 3


def _radau(stages: int) -> tuple[np.ndarray, np.ndarray]:
    """The points c, and V^-1, which turns values there into coefficients of powers.

    V is the Vandermonde matrix of c.
    """
    difference = np.zeros(stages + 1)
    difference[-2:] = -1.0, 1.0  # P_p - P_(p-1), whose roots they are
    c = np.sort((np.polynomial.legendre.legroots(difference) + 1.0) / 2.0)
    c[-1] = 1.0
    return c, np.linalg.inv(np.vander(c, increasing=True))


def integrals(x: Any) -> Any:
    """The integrals of the powers 0 .. p - 1 from 0 to each of `x`, shape `(*x.shape, p)`."""
    powers = np.arange(1, STAGES + 1).astype(x.dtype).reshape((1,) * x.ndim + (-1,))
    return x[..., None] ** powers / powers


NODES, COEFFICIENTS = _radau(STAGES)


class Point(eqx.Module):
    """How a memory comes from the start of an element to a point in it.

    - `E`: of its states there, shape `(n, n)`.
    - `Q`: of its feature at the element's nodes, shape `(p, n)`.
    """

    E: Float[Array, "*points n n"]
    Q: Float[Array, "*points q n"]

    def __call__(self, z: PyTree[Array], f: PyTree[Array]) -> PyTree[Array]:
        """The states at one point, from those at the start and the features at the nodes."""
        leaf = lambda z, f: jnp.tensordot(self.E, z, 1) + jnp.tensordot(self.Q.T, f, 1)
        return jax.tree.map(leaf, z, f)


def points(kernel: AbstractMarkovKernel, offset: Array, h: Array) -> Point:
    """The points that lie `offset` after the starts of elements of length `h`; equal shapes."""

    def one(offset, h):
        E, W = kernel.propagator(offset, STAGES - 1)
        powers = h ** jnp.arange(STAGES, dtype=h.dtype)
        return Point(E, jnp.asarray(COEFFICIENTS.T, h.dtype) @ (W / powers[:, None]))

    for _ in range(offset.ndim):
        one = jax.vmap(one)
    return one(offset, h)


class Ahead(eqx.Module):
    """How a memory is read at s + 1, for every node: the element there, and the point in it.

    Past `cut` the feature is what it was there, or zero.
    """

    element: Int[Array, "m p"]
    point: Point
    past: Bool[Array, "m p"]
    after: Point  # from the cut to s + 1, with the feature held
    frozen: Bool[Array, "m p"]  # nodes past the cut foretell the memory from themselves


class Mesh(eqx.Module):
    """The elements, and all about them that no iterate changes.

    - `ts`: their ends, shape `(m + 1,)`; `s`: their nodes, shape `(m, p)`.
    - `reach`: from an element's start to each of its nodes, the learning rate's integral against
        every basis polynomial of the element: what u there does to theta.
    - `inside`: by a memory's name, the points at the nodes.
    - `ahead`: by a memory's name, for those read ahead.
    """

    ts: Path
    s: Float[Array, "m p"]
    reach: Float[Array, "m p q"]
    inside: dict[str, Point]
    ahead: dict[str, Ahead]

    @property
    def h(self) -> Path:
        return jnp.diff(self.ts)


def make_mesh(
    memories: dict[str, Memory], rate: Usable, ts: Path, nodes: np.ndarray = NODES
) -> Mesh:
    """The elements that end at `ts`, to be looked at in `nodes`; nothing is read ahead yet.

    The learning rate has to be smooth inside each of them.
    """
    h = jnp.diff(ts)
    offset = h[:, None] * jnp.asarray(nodes, ts.dtype)[None]
    s = ts[:-1, None] + offset
    lengths = jnp.broadcast_to(h[:, None], s.shape)
    inside = {name: points(m.markov, offset, lengths) for name, m in memories.items()}
    return Mesh(ts, s, _reach(rate, ts[:-1], h, nodes), inside, {})


def _reach(
    rate: Usable, start: Float[Array, " m"], h: Float[Array, " m"], nodes: np.ndarray
) -> Float[Array, "m p q"]:
    """See `Mesh.reach`: between neighbouring nodes by panels, and summed up."""
    if not rate.varies:
        to_nodes = jnp.asarray(integrals(nodes) @ COEFFICIENTS, h.dtype)
        return (h * jax.vmap(rate)(start))[:, None, None] * to_nodes[None]
    x, w = panels(_PANELS)
    before = np.append(0.0, nodes[:-1])[:, None]
    width = nodes[:, None] - before
    x, w = before + width * x[None], jnp.asarray(width * w[None], h.dtype)
    s = start[:, None, None] + h[:, None, None] * jnp.asarray(x, h.dtype)[None]
    weights = h[:, None, None] * w[None] * at_all(rate, s)
    between = jnp.einsum("mpx,pxq->mpq", weights, jnp.asarray(basis(x), h.dtype))
    return jnp.cumsum(between, axis=1)


def reach_to(rate: Usable, start: Scalar, h: Scalar, offset: Scalar) -> Float[Array, " q"]:
    """The same from an element's start to `offset` steps later, in the element of length `h`."""
    x = offset / h
    if not rate.varies:
        return h * rate(start) * (integrals(x) @ jnp.asarray(COEFFICIENTS, h.dtype))
    nodes, w = (jnp.asarray(y, h.dtype) for y in panels(STAGES * _PANELS))
    return (offset * w * at_all(rate, start + offset * nodes)) @ basis(x * nodes)


def basis(x: Any) -> Any:
    """The values of the basis polynomials of an element at each of `x`, `(*x.shape, p)`."""
    powers = np.arange(STAGES).astype(x.dtype).reshape((1,) * x.ndim + (-1,))
    return x[..., None] ** powers @ COEFFICIENTS.astype(x.dtype)


def look_ahead(memories: dict[str, Memory], mesh: Mesh, cut: Count, hold: Flag) -> Mesh:
    """The same elements, and how to read ahead in them.

    **Arguments:**

    - `cut`, `hold`: at which element's start the gradient is cut off, and whether it is held there
        or zero from then on.
    """
    ts, ahead = mesh.ts, {}
    for name, m in memories.items():
        if not m.ahead:
            continue
        y = mesh.s + m.ahead
        past = y > ts[cut]
        element = jnp.searchsorted(ts, y, side="right").astype(cut.dtype)
        element = jnp.clip(element - 1, 0, cut - 1)
        length = mesh.h[element]
        point = points(m.markov, jnp.where(past, length, y - ts[element]), length)
        beyond = points(m.markov, jnp.where(past, y - ts[cut], 0.0), jnp.ones_like(y))
        held = jnp.where(hold, jnp.sum(beyond.Q, axis=-2, keepdims=True), 0.0)
        after = Point(beyond.E, held)
        ahead[name] = Ahead(element, point, past, after, mesh.s >= ts[cut])
    return Mesh(ts, mesh.s, mesh.reach, mesh.inside, ahead)


class Foretold(eqx.Module):
    """A memory at s + 1, foretold at every node.

    With z the states at s and f the feature at the same node it is read as
    $C e^A z + c + \\omega\\,W f$, where W f is what a held f would add over the step. Where
    $c \\ge 0$ and $\\omega \\in [0, 1]$ a positive memory stays positive, however far off the
    iterate is.
    """

    c: PyTree[Array]
    omega: PyTree[Array]


class Swept(eqx.Module):
    """A path, element by element; leading axes `(m,)` for starts, `(m, p)` for nodes."""

    theta0: PyTree[Array]
    z0: dict[str, PyTree[Array]]
    u: PyTree[Array]  # theta' = -alpha u; a polynomial, whatever alpha does
    f: dict[str, PyTree[Array]]
    g: PyTree[Array]
    theta: PyTree[Array]
    z: dict[str, PyTree[Array]]


def sweep(
    equation: Equation, y0: Augmented, mesh: Mesh, foretold: dict[str, Foretold], few: bool
) -> Swept:
    """Solves the equation forwards, with what is read ahead foretold.

    `few`: whether there are so few parameters that it is done with matrices.
    """
    dtype = dtype_of(y0.theta)
    model = cast(equation.model, dtype)
    tolerance = 1e2 * float(jnp.finfo(dtype).eps)
    linear = Quiet(lx.AutoLinearSolver(well_posed=None) if few else _iterative(tolerance))
    adjoint = optx.ImplicitAdjoint(linear_solver=linear)

    def element(carry, x):
        theta0, z0, last = carry
        s, reach, inside, foretold = x

        def nodes(u):
            theta = jax.vmap(moved, (None, None, 0))(theta0, u, reach)
            g = jax.vmap(lambda x: equation.gradient(x, y0.fixed))(theta)
            f, z, moments = {}, {}, {}
            for name, m in model.memories().items():
                f[name] = jax.vmap(m.of)(g)
                z[name] = jax.vmap(Point.__call__, (0, None, None))(inside[name], z0[name], f[name])
                if m.ahead:
                    moments[name] = read_ahead(m, z[name], f[name], foretold[name])
                else:
                    moments[name] = jax.vmap(m.markov.read)(z[name])
            return theta, g, f, z, moments

        def fraction(u):
            theta, g, _, _, moments = nodes(u)
            return theta, *jax.vmap(partial(fraction_of, equation.model))(s, theta, g, moments)

        guess = jax.tree.map(lambda u: jnp.broadcast_to(u[None], (STAGES, *u.shape)), last)
        flat, unravel = ravel_pytree(guess)  # lineax makes no matrix of an empty array

        def residual(flat, args):
            del args
            u = unravel(flat)

            # the direction times its denominator, which is smooth where g = 0; each row scaled to
            # the direction's size, which leaves Newton's step as it is
            def row(u, x, n, d):
                own = (u - model.weight_decay * x) * d - n
                return own / jax.lax.stop_gradient(d)

            return ravel_pytree(jax.tree.map(row, u, *fraction(u)))[0]

        def turned(u, args):
            del args
            return jax.tree.map(lambda x, n, d: n / d + model.weight_decay * x, *fraction(u))

        if few:
            newton = optx.Newton(tolerance, tolerance, norm=largest, linear_solver=linear)
            solution = optx.root_find(
                residual, newton, flat, max_steps=25, adjoint=adjoint, throw=False
            )
            u = unravel(solution.value)
        else:  # a network's path is not stiff within an element
            picard = optx.FixedPointIteration(tolerance, tolerance, norm=largest)
            solution = optx.fixed_point(
                turned, picard, guess, max_steps=100, adjoint=adjoint, throw=False
            )
            u = solution.value
        theta, g, f, z, _ = nodes(u)
        end = lambda tree: jax.tree.map(lambda x: x[-1], tree)
        return (end(theta), end(z), end(u)), Swept(theta0, z0, u, f, g, theta, z)

    start = (y0.theta, y0.memory, jax.tree.map(jnp.zeros_like, y0.theta))
    xs = (mesh.s, mesh.reach, mesh.inside, foretold)
    if not few:  # a network's activations at every node are too many to keep
        element = jax.checkpoint(element)  # pyright: ignore[reportPrivateImportUsage]
    return jax.lax.scan(element, start, xs)[1]


def solves_dense(parameters: int) -> bool:
    """Whether an element's equations are few enough for Newton's method with a dense matrix."""
    return STAGES * parameters <= _DENSE


def _iterative(tolerance: float) -> lx.AbstractLinearSolver:
    # near the identity: few iterations, of which lineax runs through all
    return lx.GMRES(1e-4, tolerance, largest, restart=5, stagnation_iters=5)


def held_step(m: Memory, z: PyTree[Array], f: PyTree[Array]) -> tuple[PyTree[Array], PyTree[Array]]:
    """The moment one step later: what z leaves of itself, and what a held f adds. At nodes."""
    dtype = dtype_of(f)
    E, W = m.markov.propagator(jnp.asarray(m.ahead, dtype), 0)
    kept = jax.vmap(lambda z: m.markov.read(jax.tree.map(lambda z: jnp.tensordot(E, z, 1), z)))(z)
    weight = m.markov.read(W[0])
    return kept, jax.tree.map(lambda f: weight * f, f)


def read_ahead(m: Memory, z: PyTree[Array], f: PyTree[Array], foretold: Foretold) -> PyTree[Array]:
    """The moment at s + 1, as foretold, at nodes."""
    kept, held = held_step(m, z, f)
    return jax.tree.map(lambda k, h, c, o: k + c + o * h, kept, held, foretold.c, foretold.omega)


def really_ahead(m: Memory, mesh: Mesh, name: str, path: Swept) -> PyTree[Array]:
    """The moment at s + 1 of the path itself, at all nodes."""
    ahead = mesh.ahead[name]

    def one(element, point, past, after):
        pick = lambda tree: jax.tree.map(lambda x: x[element], tree)
        z = point(pick(path.z0[name]), pick(path.f[name]))
        last = jax.tree.map(lambda f: f[element, -1][None], path.f[name])
        return m.markov.read(_choose(past, after(z, last), z))

    args = (ahead.element, ahead.point, ahead.past, ahead.after)
    return jax.vmap(jax.vmap(one))(*args)


def _choose(flag: Flag, a: PyTree[Array], b: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), a, b)


def moved(theta0: PyTree[Array], u: PyTree[Array], reach: Float[Array, " q"]) -> PyTree[Array]:
    """The parameters at one point of an element; `reach`: see `Mesh.reach`."""
    return jax.tree.map(lambda x, u: x - jnp.tensordot(reach, u, 1), theta0, u)
