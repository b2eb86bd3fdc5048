"""What a step makes of a state, once the gradient along it is known."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from .._equation import fraction_of, quotient
from .._kernel import powers_of
from .._model import AbstractModel
from .._types import Scalar

# Up to so many summands are added one by one, as a part of the arithmetic around them.
_UNROLLED = 8
# Up to so many numbers, arrays are stacked for one product.
_SMALL = 10_000


class Nodes:
    """Gauss's nodes on [0, 1], and the weights that depend on nothing else.

    - `inside`: the nodes, shape `(n,)`; `ends`: they and 1, shape `(n + 1,)`.
    - `motion`: the integral up to each of `ends` of the polynomial through values at the nodes,
        shape `(n + 1, n)`.
    - `powers`: the coefficients of that polynomial, lowest first, shape `(n, n)`.
    - `edges`: its values at 0 and at 1, shape `(2, n)`; `gap`: how much of the step is past the
        last node, and before the first.
    """

    def __init__(self, count: int):
        nodes = 0.5 + 0.5 * np.polynomial.legendre.leggauss(count)[0]
        j = np.arange(count)
        self.count = count
        self.inside, self.ends = nodes, np.append(nodes, 1.0)
        self.powers = np.linalg.inv(nodes[:, None] ** j)
        self.edges, self.gap = np.stack([self.powers[0], self.powers.sum(axis=0)]), nodes[0]
        self.motion = (self.ends[:, None] ** (j + 1) / (j + 1)) @ self.powers


@functools.cache
def nodes_for(order: int) -> Nodes:
    """Those of a method of this order: four resolve the direction's quotient up to order 4."""
    return Nodes(max(4, order))


class ExactStep(eqx.Module):
    r"""A step of length `h` from `s`, in which the gradient is given at the nodes.

    Each memory is propagated exactly under the polynomial through its feature at the nodes; theta
    is the integral of the direction by Gauss's rule, with the decay $e^{-w \int \alpha}$ of
    decoupled weight decay in closed form. Nothing is approximated that does not depend on the path:
    a memory that forgets within a fraction of the step, and one that never forgets, are the same.

    Node by node, so that on many parameters it is one loop of arithmetic, in which nothing of
    their size is written but what it returns.

    - `s`, `alpha`: at each of `Nodes.ends`.
    - `memory`: by memory, its states at the end (the first rows) and the moment at each node, of
        its states at the start (the first columns) and its feature at each node.
    - `motion`: theta at each of `Nodes.ends` is `faded` theta - `motion` @ direction.
    - `edges`: the integrand of theta's motion at the start and the end of the step, by what it is
        at the nodes, of the direction there, and `bounds` of the direction at the two themselves.
    - `start`: s at the start.
    - `gap`: how long no node looks, at either end.
    """

    model: AbstractModel
    s: Float[Array, " ends"]
    alpha: Float[Array, " ends"]
    memory: dict[str, Float[Array, "rows columns"]]
    motion: Float[Array, "ends n"]
    faded: Float[Array, " ends"]
    edges: Float[Array, "2 n"]
    bounds: Float[Array, "2"]
    start: Scalar
    gap: Scalar
    sweeps: int = eqx.field(static=True)

    @classmethod
    def of(cls, model: AbstractModel, s: Any, h: Scalar, order: int) -> "ExactStep":
        """The weights of a step; `model` is of the dtype of `h`, and `h` positive."""
        nodes, dtype = nodes_for(order), h.dtype
        ends, powers = jnp.asarray(nodes.ends, dtype), jnp.asarray(nodes.powers, dtype)
        scale = powers_of(h, nodes.count)
        matrices = {}
        for name, memory in model.memories().items():
            propagator = lambda x, m=memory: m.markov.propagator(x * h, nodes.count - 1)
            E, W = jax.vmap(propagator)(ends)
            W = jnp.einsum("ejk,jn->enk", W / scale[None, :, None], powers, precision="highest")
            read = jax.vmap(memory.markov.read)
            end = jnp.concatenate([E[-1], W[-1].T], axis=1)
            moment = jnp.concatenate([read(E[:-1]), jax.vmap(read)(W[:-1])], axis=1)
            matrices[name] = jnp.concatenate([end, moment])
        start = jnp.asarray(s, dtype)
        at = start + ends * h
        alpha = jax.vmap(model.alpha)(at)
        motion = h * jnp.asarray(nodes.motion, dtype)
        # (E1) with decoupled weight decay w: theta' = -alpha (direction + w theta)
        decay = model.weight_decay * (motion @ alpha[:-1])
        motion = motion * alpha[None, :-1] * jnp.exp(decay[None, :-1] - decay[:, None])
        faded = jnp.exp(-decay)
        remaining = alpha[:-1] * jnp.exp(decay[:-1] - decay[-1])
        edges = jnp.asarray(nodes.edges, dtype) * remaining[None]
        bounds = jnp.stack([model.alpha(start) * faded[-1], alpha[-1]])
        gap = h * jnp.asarray(nodes.gap, dtype)
        return cls(model, at, alpha, matrices, motion, faded, edges, bounds, start, gap, order)

    def __call__(
        self, theta: PyTree[Array], memory: dict[str, PyTree[Array]], g: list[PyTree[Array]]
    ) -> tuple[PyTree[Array], dict[str, PyTree[Array]], list[PyTree[Array]]]:
        """The way of theta to the end, memories there, and the direction at each node.

        **Arguments:**

        - `g`: the gradient at each node.
        """
        end, read = {}, [{} for _ in g]
        for name, m in self.model.memories().items():
            end[name], moments = self._memory(name, memory[name], [m.of(g) for g in g])
            read = [known | {name: moment} for known, moment in zip(read, moments, strict=True)]
        d = self._directions([theta] * len(g), g, read)
        if not self.model.pointwise:  # it may depend on theta: each sweep gains an order
            for _ in range(self.sweeps):
                inside = [self.after(self._way(i, d), theta, i) for i in range(len(g))]
                d = self._directions(inside, g, read)
        return self._way(-1, d), end, d

    def after(self, way: PyTree[Array], theta: PyTree[Array], i: int = -1) -> PyTree[Array]:
        """Theta at the end, or at the node `i`, after a `way` that says nothing of weight decay."""
        return jax.tree.map(lambda x, way: self.faded[i] * x - way, theta, way)

    def overlooked(
        self, d: list[PyTree[Array]], before: tuple[Any, Any, Any], after: tuple[Any, Any, Any]
    ) -> PyTree[Array]:
        """How far theta would be elsewhere if what no node sees lasted through both gaps.

        The rule is exact for what is a polynomial through the nodes: the integrand at both ends of
        the step, of the learning rate and the direction together, says whether it is one. So it
        tells of a schedule, of weight decay, of a direction that turns over at a point or depends
        on s: the gradient, which goes on smoothly, tells of none of them.

        **Arguments:**

        - `d`: the direction at each node.
        - `before`, `after`: theta, memory and gradient at both ends.
        """
        memories = self.model.memories()

        def missed(i, s, ends):
            theta, memory, g = ends
            moments = {name: m.markov.read(memory[name]) for name, m in memories.items()}
            there = quotient(fraction_of(self.model, s, theta, g, moments))
            expected = combine(self.edges[i][None], d)[0]
            return jax.tree.map(lambda a, b: jnp.abs(self.bounds[i] * a - b), there, expected)

        at_end = missed(1, self.s[-1], after)
        if not self.model.explicit:
            return jax.tree.map(lambda a: self.gap * a, at_end)
        at_start = missed(0, self.start, before)
        return jax.tree.map(lambda a, b: self.gap * (a + b), at_start, at_end)

    def end(self, name: str, state: PyTree[Array], features: list[PyTree[Array]]) -> PyTree[Array]:
        """The states of one memory at the end, of its feature at each node."""
        return self._memory(name, state, features)[0]

    def learnt(self, name: str, features: list[PyTree[Array]]) -> PyTree[Array]:
        """The part of them that the feature makes."""
        matrix = self.memory[name]
        states = len(matrix) - len(features)
        return stacked(combine(matrix[:states, states:], features))

    def _memory(
        self, name: str, state: PyTree[Array], features: list[PyTree[Array]]
    ) -> tuple[PyTree[Array], list[PyTree[Array]]]:
        """The states at the end, and the moment at each node."""
        before = rows(state)
        out = combine(self.memory[name], [*before, *features])
        return stacked(out[: len(before)]), out[len(before) :]

    def _directions(self, theta: list[Any], g: list[Any], read: list[Any]) -> list[PyTree[Array]]:
        nodes = list(zip(self.s[:-1], theta, g, read, strict=True))
        at = lambda node: quotient(fraction_of(self.model, *node))
        return _each(at, nodes)

    def _way(self, i: int, d: list[PyTree[Array]]) -> PyTree[Array]:
        return combine(self.motion[i][None], d)[0]


def _each(function: Any, nodes: list[Any]) -> list[Any]:
    """`function` of each of the nodes."""
    if _small(nodes[0]):
        return _together(function, nodes)
    return _in_turn(eqx.filter_closure_convert(function, nodes[0]), nodes)


def _together(function: Any, nodes: list[Any]) -> list[Any]:
    return rows(jax.vmap(function)(stacked(nodes)))


@eqx.filter_custom_jvp
def _in_turn(function: Any, nodes: list[Any]) -> list[Any]:
    """One by one; the derivative is taken of all at once."""
    return [function(node) for node in nodes]


@_in_turn.def_jvp
def _in_turn_jvp(primals: Any, tangents: Any) -> Any:
    return eqx.filter_jvp(_together, primals, tangents)


def combine(matrix: Float[Array, "n k"], values: list[PyTree[Array]]) -> list[PyTree[Array]]:
    """`matrix` times the `k` values: `n` of them."""
    if not _small(values[0]):
        return _combined(matrix, values)
    product = lambda x: jnp.tensordot(matrix, x, 1, precision="highest")
    return rows(jax.tree.map(product, stacked(values)))


def _small(value: PyTree[Array]) -> bool:
    """Whether one product is as quick as its summands one by one, and quicker to compile."""
    return max((x.size for x in jax.tree.leaves(value)), default=0) <= _SMALL


@jax.custom_jvp
def _combined(matrix: Float[Array, "n k"], values: list[PyTree[Array]]) -> list[PyTree[Array]]:
    """The same, summand by summand, as a part of the arithmetic around it.

    The derivative in the matrix is one product: in reverse, instead of a sum over all parameters
    for each of its entries.
    """
    return [jax.tree.map(lambda *x, row=row: mix(row, x), *values) for row in matrix]


@_combined.defjvp
def _combined_jvp(primals: Any, tangents: Any) -> Any:
    (matrix, values), (of_matrix, of_values) = primals, tangents
    product = lambda x: jnp.tensordot(of_matrix, x, 1, precision="highest")
    by_matrix = rows(jax.tree.map(product, stacked(values)))
    by_values = _combined(matrix, of_values)
    return _combined(matrix, values), jax.tree.map(jnp.add, by_matrix, by_values)


def stacked(trees: list[PyTree[Array]]) -> PyTree[Array]:
    """One tree, with a leading axis."""
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def rows(tree: PyTree[Array]) -> list[PyTree[Array]]:
    """A tree for each row of the leading axis; in reverse they are put together at once."""
    leaves = [[row[0] for row in jnp.split(x, len(x))] for x in jax.tree.leaves(tree)]
    return [jax.tree.unflatten(jax.tree.structure(tree), row) for row in zip(*leaves, strict=True)]


def mix(weights: Float[Array, " k"], values: Any) -> Float[Array, "*shape"]:
    """The combination with `weights` of `values`: an array of as many rows, or a list of arrays."""
    if len(values) > _UNROLLED:
        return jnp.tensordot(weights, jnp.asarray(values), 1, precision="highest")
    return functools.reduce(jnp.add, [w * value for w, value in zip(weights, values, strict=True)])


def lagrange(x: Float[Array, " k"], at: Any) -> Float[Array, "n k"]:
    """The polynomials that are 1 at one of `x` and 0 at the others, each at the points `at`."""
    everywhere = jnp.ones(x.size, bool)
    return jax.vmap(lambda at: masked_lagrange(x, everywhere, at))(jnp.asarray(at, x.dtype))


def masked_lagrange(x: Float[Array, " k"], there: Bool[Array, " k"], at: Any) -> Float[Array, " k"]:
    """The same at one point, for those of `x` that are `there`; 0 for the others."""
    others = there[None] & ~jnp.eye(x.size, dtype=bool)
    between = jnp.where(others, x[:, None] - x[None], 1.0)
    away = jnp.where(others, at - x[None], 1.0)
    return jnp.where(there, jnp.prod(away / between, axis=1), 0.0)
