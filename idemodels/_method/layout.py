"""The arrays of the parameters as one: a program's size then does not grow with their number."""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._checks import is_concrete
from .._equation import Augmented, Equation, Fixed
from .._programs import program
from .base import Problem

# Beyond so many numbers memory counts, and arrays may lie on several devices.
_LARGE = 300_000


class Layout(eqx.Module):
    """Where each array of the parameters lies in the one of them all.

    - `fixed`: leaves that do not move.
    """

    structure: Any = eqx.field(static=True)
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    fixed: Fixed = eqx.field(static=True)

    @classmethod
    def of(cls, y: Augmented) -> "Layout":
        leaves, structure = jax.tree.flatten(y.theta)
        return cls(structure, tuple(x.shape for x in leaves), y.fixed)

    def array(self, tree: PyTree[Array]) -> Float[Array, " p"]:
        """One array of a tree like the parameters."""
        return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(tree)])

    def tree(self, array: Float[Array, " p"]) -> PyTree[Array]:
        """The tree of one array."""
        parts = jax.lax.split(array, [math.prod(shape) for shape in self.shapes])
        leaves = [x.reshape(shape) for x, shape in zip(parts, self.shapes, strict=True)]
        return jax.tree.unflatten(self.structure, leaves)

    def one(self, y: Augmented) -> Augmented:
        """A state in one array; each state of a memory in one."""
        memory = {name: jax.vmap(self.array)(z) for name, z in y.memory.items()}
        velocity = None if y.velocity is None else self.array(y.velocity)
        return Augmented(self.array(y.theta), memory, Fixed(None), velocity)

    def many(self, y: Augmented) -> Augmented:
        """The state whose arrays lie in `y`."""
        memory = {name: jax.vmap(self.tree)(z) for name, z in y.memory.items()}
        velocity = None if y.velocity is None else self.tree(y.velocity)
        return Augmented(self.tree(y.theta), memory, self.fixed, velocity)

    def spread(self, units: Augmented) -> Augmented:
        """What counts as one in each array, for each number in the one of them all."""

        def spread(unit):
            each = zip(self.shapes, jax.tree.leaves(unit), strict=True)
            return self.array([jnp.full(shape, x) for shape, x in each])[None]

        memory = {name: spread(unit) for name, unit in units.memory.items()}
        one = jax.tree.leaves(units.theta)[0]  # the same for all
        return Augmented(one, memory, Fixed(None), None if units.velocity is None else one)


class _Objective(eqx.Module):
    """An objective of one array."""

    objective: Any
    layout: Layout

    def __call__(self, theta: Float[Array, " p"], *args: Any) -> Any:
        return self.objective(self.layout.tree(theta), *args)


class _Keep(eqx.Module):
    """What is kept of a state in one array."""

    keep: Any
    layout: Layout

    def __call__(self, s: Any, y: Augmented, moments: Any = None) -> PyTree[Any]:
        moments = moments and {name: self.layout.tree(m) for name, m in moments.items()}
        return self.keep(s, self.layout.many(y), moments)


def is_flattened(problem: Problem) -> bool:
    """Whether the path is made of one array: of several small ones, where the model permits."""
    if not isinstance(problem.equation, Equation):
        return False
    leaves = jax.tree.leaves(problem.y0.theta)
    alike = len({x.dtype for x in leaves}) == 1
    together = not is_concrete(leaves) or all(len(x.sharding.device_set) == 1 for x in leaves)
    several = 1 < len(leaves) and problem.parameters <= _LARGE
    return several and alike and together and problem.equation.model.is_elementwise


@program
def flattened(problem: Problem) -> Problem:
    """The same problem of one array."""
    layout = Layout.of(problem.y0)
    objective = _Objective(problem.equation.objective, layout)
    return dataclasses.replace(
        problem,
        equation=dataclasses.replace(problem.equation, objective=objective),
        y0=layout.one(problem.y0),
        g0=layout.array(problem.g0),
        keep=_Keep(problem.keep, layout),
        layout=layout,
    )
