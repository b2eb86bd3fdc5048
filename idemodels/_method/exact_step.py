"""What a step makes of a state, once the gradient along it is known."""

from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from .._equation import fraction_of, quotient
from .._model import AbstractModel
from .._types import Scalar


class Nodes:
    """Gauss's nodes on [0, 1], and the weights that depend on nothing else.

    - `inside`: the nodes, shape `(n,)`; `ends`: they and 1, shape `(n + 1,)`.
    - `motion`: the integral up to each of `ends` of the polynomial through values at the nodes,
        shape `(n + 1, n)`.
    - `powers`: the coefficients of that polynomial, lowest first, shape `(n, n)`.
    """

    def __init__(self, count: int):
        nodes = 0.5 + 0.5 * np.polynomial.legendre.leggauss(count)[0]
        j = np.arange(count)
        self.count = count
        self.inside, self.ends = nodes, np.append(nodes, 1.0)
        self.powers = np.linalg.inv(nodes[:, None] ** j)
        self.motion = (self.ends[:, None] ** (j + 1) / (j + 1)) @ self.powers


@cache
def nodes_for(order: int) -> Nodes:
    """Those of a method of this order: four resolve the direction's quotient up to order 4."""
    return Nodes(max(4, order))


class ExactStep(eqx.Module):
    r"""A step of length `h` from `s`, in which the gradient is given at the nodes.

    Each memory is propagated exactly under the polynomial through its feature at the nodes; theta
    is the integral of the direction by Gauss's rule, with the decay $e^{-w \int \alpha}$ of
    decoupled weight decay in closed form. Nothing is approximated that does not depend on the path:
    a memory that forgets within a fraction of the step, and one that never forgets, are the same.

    - `alpha`: at the nodes.
    - `transitions`, `inputs`: by memory, from the start to each of `Nodes.ends`.
    - `motion`: theta there is `kept` theta - `motion` @ direction.
    """

    model: AbstractModel
    s: Float[Array, " n"]
    alpha: Float[Array, " n"]
    transitions: dict[str, Float[Array, "ends k k"]]
    inputs: dict[str, Float[Array, "ends n k"]]
    motion: Float[Array, "ends n"]
    kept: Float[Array, " ends"]
    sweeps: int = eqx.field(static=True)

    @classmethod
    def of(cls, model: AbstractModel, s: Any, h: Scalar, order: int) -> "ExactStep":
        """The weights of a step; `model` is of the dtype of `h`, and `h` positive."""
        nodes, dtype = nodes_for(order), h.dtype
        ends, powers = jnp.asarray(nodes.ends, dtype), jnp.asarray(nodes.powers, dtype)
        scale = h ** jnp.arange(nodes.count, dtype=dtype)
        transitions, inputs = {}, {}
        for name, memory in model.memories().items():
            propagator = lambda x, m=memory: m.markov.propagator(x * h, nodes.count - 1)
            transitions[name], W = jax.vmap(propagator)(ends)
            by_power = W / scale[None, :, None]
            inputs[name] = jnp.einsum("ejk,jn->enk", by_power, powers, precision="highest")
        at = jnp.asarray(s, dtype) + ends[:-1] * h
        alpha = jax.vmap(model.alpha)(at)
        motion = h * jnp.asarray(nodes.motion, dtype)
        # (E1) with decoupled weight decay w: theta' = -alpha (direction + w theta)
        decay = model.weight_decay * mix(motion, alpha)
        motion = motion * alpha[None] * jnp.exp(decay[None, :-1] - decay[:, None])
        return cls(model, at, alpha, transitions, inputs, motion, jnp.exp(-decay), order)

    def __call__(
        self, theta: PyTree[Array], memory: dict[str, PyTree[Array]], g: PyTree[Array]
    ) -> tuple[PyTree[Array], dict[str, PyTree[Array]], PyTree[Array]]:
        """Theta and memories at the end, and the direction at the last node.

        **Arguments:**

        - `g`: the gradient at the nodes; leaves `(n, *shape)`.
        """
        read, end = {}, {}
        for name, m in self.model.memories().items():
            states = self._states(name, memory[name], m.of(g))
            end[name] = jax.tree.map(lambda z: z[-1], states)
            inside = jax.tree.map(lambda z: z[:-1], states)
            read[name] = jax.vmap(m.markov.read)(inside)

        def direction(s, theta, g, moments):
            return quotient(fraction_of(self.model, s, theta, g, moments))

        if self.model.pointwise:
            d = jax.vmap(direction, in_axes=(0, None, 0, 0))(self.s, theta, g, read)
        else:
            d = self._swept(jax.vmap(direction), theta, g, read)
        moved = jax.tree.map(lambda x, d: self._moved(x, d, slice(-1, None))[0], theta, d)
        return moved, end, jax.tree.map(lambda d: d[-1], d)

    def end(
        self, name: str, state: Float[Array, "k p"], feature: Float[Array, "n p"]
    ) -> Float[Array, "k p"]:
        """The states of one memory at the end, of its `feature` at the nodes, on flat arrays."""
        return mix(self.transitions[name][-1], state) + mix(self.inputs[name][-1].T, feature)

    def _states(self, name: str, memory: PyTree[Array], feature: PyTree[Array]) -> PyTree[Array]:
        """The states of a memory at the nodes and at the end; leaves `(n + 1, k, *shape)`."""
        E, W = self.transitions[name], self.inputs[name]

        def leaf(z, f):
            if z.shape[0] == 1:  # the common case, without a matrix product over all parameters
                kept = E.reshape((-1,) + (1,) * z.ndim) * z[None]
                return kept + mix(W[:, :, 0], f)[:, None]
            kept = jnp.tensordot(E, z, 1, precision="highest")
            return kept + jnp.einsum("enk,n...->ek...", W, f, precision="highest")

        return jax.tree.map(leaf, memory, feature)

    def _moved(self, theta: Array, d: Array, rows: slice) -> Array:
        kept = self.kept[rows].reshape((-1,) + (1,) * theta.ndim)
        return kept * theta[None] - mix(self.motion[rows], d)

    def _swept(self, direction: Any, theta: PyTree[Array], g: PyTree[Array], read: Any) -> Any:
        """A direction that may depend on theta: each sweep over the nodes gains an order."""

        def sweep(at, _):
            d = direction(self.s, at, g, read)
            return jax.tree.map(lambda x, d: self._moved(x, d, slice(-1)), theta, d), None

        start = jax.tree.map(lambda x: jnp.broadcast_to(x, (self.s.size, *x.shape)), theta)
        at, _ = jax.lax.scan(sweep, start, None, length=self.sweeps)
        return direction(self.s, at, g, read)


def mix(weights: Any, values: Float[Array, "k *shape"]) -> Float[Array, "n *shape"]:
    """The combinations `weights` (shape `(n, k)`) of values along their first axis."""
    weights = jnp.asarray(weights, values.dtype)
    return jnp.tensordot(weights, values, 1, precision="highest")


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
