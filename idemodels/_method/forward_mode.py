"""Second derivatives of an objective that has no forward mode, as with `jax.custom_vjp`.

Newton's method asks for the Hessian's products, by forward mode over the gradient, and so does the
derivative of what it finds. The Hessian is symmetric: reverse mode gives the same.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._equation import Augmented, Equation
from .._second import has_forward
from .._types import Scalar


def with_forward_mode(equation: Equation, y: Augmented) -> Equation | None:
    """The same equation, whose gradient can be differentiated in both modes.

    `None` where it can be in neither, as where a callback computes the gradient.
    """
    able = lambda equation: has_forward(lambda x: equation.gradient(x, y.fixed), y.theta)
    if able(equation):
        return equation
    by_reverse = dataclasses.replace(equation, objective=ByReverse(equation.objective))
    return by_reverse if able(by_reverse) else None


class ByReverse(eqx.Module):
    """An objective that is differentiated twice by reverse mode alone, whichever is asked for."""

    objective: Any

    def __call__(self, *args: Any) -> Scalar:
        """The objective's value."""
        return _value(self.objective, args)


@eqx.filter_custom_jvp
def _value(objective: Any, args: tuple[Any, ...]) -> Scalar:
    return objective(*args)


@_value.def_jvp
def _value_jvp(primals: Any, tangents: Any) -> tuple[Scalar, Scalar]:
    moving, held = _moving(primals, tangents)
    return _value(*primals), _dot(_slope(moving, held), tangents)


@eqx.filter_custom_jvp
def _slope(moving: PyTree[Array], held: PyTree[Any]) -> PyTree[Array]:
    """The gradient in the leaves that move."""
    return jax.grad(_objective)(moving, held)


@_slope.def_jvp
def _slope_jvp(primals: Any, tangents: Any) -> tuple[PyTree[Array], PyTree[Array]]:
    moving, held = primals
    tangents = eqx.combine(*tangents)

    def along(moving):
        return _dot(jax.grad(_objective)(*_moving(eqx.combine(moving, held), tangents)), tangents)

    return _slope(moving, held), jax.grad(along)(moving)


def _objective(moving: PyTree[Array], held: PyTree[Any]) -> Scalar:
    objective, args = eqx.combine(moving, held)
    return objective(*args)


def _moving(primals: Any, tangents: Any) -> tuple[PyTree[Array], PyTree[Any]]:
    """The leaves that have a tangent, and the others."""
    is_none = lambda x: x is None
    moves = jax.tree.map(lambda t, x: t is not None, tangents, primals, is_leaf=is_none)
    return eqx.partition(primals, moves)


def _dot(a: PyTree[Array], b: PyTree[Array]) -> Scalar:
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), a, b)
    return jax.tree.reduce(jnp.add, products)
