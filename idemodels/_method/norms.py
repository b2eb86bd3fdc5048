"""How states, their errors and their rates are measured."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._equation import Augmented
from .._kernel import Memory
from .._model import AbstractModel
from .._types import Scalar


def group_norm(y: PyTree[Array]) -> Scalar:
    """The largest root mean square among theta and each memory.

    Control on theta alone is optimistic by orders of magnitude: an error in a memory is an error of
    the velocity for as long as the memory lasts.
    """
    groups = [y.theta, *y.memory.values()] + ([] if y.velocity is None else [y.velocity])
    return jnp.max(jnp.stack([_rms(group) for group in groups]))


def units(
    y: Augmented, g: PyTree[Array], memories: dict[str, Memory], atol: Any, strict: bool
) -> Augmented:
    """What counts as one: 1 for theta and its velocity; for a memory, its feature h at first.

    So `atol * h(g)` of it may be wrong. Where `strict`, only `h(atol * g)`: of a second moment the
    square, since its root divides, so that it is known even after g has faded to `atol` of its
    first size. A gradient with kinks does not allow that.
    """
    ones = jax.tree.map(lambda x: jnp.ones((), x.dtype), y.theta)
    overall = largest(g)
    overall = jnp.where(overall > 0, overall, 1.0)

    def size(g):
        rms = jnp.sqrt(jnp.mean(g * g))
        # a leaf whose gradient starts at zero is measured by the others
        return jnp.where(rms > 0, rms, overall)

    factor = atol if strict else 1.0
    features = {
        name: memory.of(jax.tree.map(lambda g: factor * size(g), g))
        for name, memory in memories.items()
    }
    memory = jax.tree.map(lambda u: jnp.abs(u) / factor, features)
    return Augmented(ones, memory, y.fixed, None if y.velocity is None else ones)


def by_memory(y: Augmented) -> Augmented:
    """The size of every number, but of each state of a memory that of the largest of them.

    They are read together: one that passes through zero may be wrong by as much as the others.
    """
    size = jax.tree.map(jnp.abs, y)
    shared = lambda z: z if len(z) == 1 else jnp.broadcast_to(jnp.max(z, 0, keepdims=True), z.shape)
    return dataclasses.replace(size, memory=jax.tree.map(shared, size.memory))


def largest(tree: PyTree[Array]) -> Scalar:
    """The largest absolute value in `tree`."""
    return jnp.max(jnp.stack([jnp.max(jnp.abs(x), initial=0) for x in jax.tree.leaves(tree)]))


def _rms(tree: PyTree[Array]) -> Scalar:
    leaves = jax.tree.leaves(tree)
    total = sum(jnp.sum(jnp.square(x)) for x in leaves)
    mean = total / sum(x.size for x in leaves)
    positive = mean > 0  # a derivative of the root at 0 would be NaN
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, mean, 1.0)), 0.0)


def fastest_rate(model: AbstractModel, dtype: Any, names: Any = None) -> Scalar:
    """The largest rate at which any memory forgets, per optimizer step; 0 where none does.

    - `names`: of the memories that count; `None` is all.
    """
    memories = model.memories().items()
    chosen = [m for name, m in memories if names is None or name in names]
    rates = [jnp.max(jnp.abs(m.markov.state_space()[0])) for m in chosen]
    return jnp.max(jnp.stack(rates)).astype(dtype) if rates else jnp.zeros((), dtype)


def memory_time(model: AbstractModel, dtype: Any, names: Any = None) -> Scalar:
    """How many steps the memory lasts that forgets fastest; 0 where nothing is forgotten."""
    rate = fastest_rate(model, dtype, names)
    forgets = rate > 0
    return jnp.where(forgets, 1.0 / jnp.where(forgets, rate, 1.0), 0.0)
