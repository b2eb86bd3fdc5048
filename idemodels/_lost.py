"""A derivative that does not exist: NaN where it is asked for, 0 where it is not."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, PyTree

from ._types import Scalar


def without_derivative(tree: PyTree[Any]) -> Scalar:
    """0, whose derivative in every floating array of `tree` is NaN.

    Where nobody uses it, as of a failed lane that is left out, the others' are not spoiled.
    """
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    as_one = lambda x: _nothing(x).astype(jnp.result_type(float))  # whatever their types
    return sum(map(as_one, leaves), start=jnp.zeros(()))


@jax.custom_jvp
def _nothing(x: Array) -> Scalar:
    # made of x: under `vmap` value and derivative must be mapped alike
    return 0.0 * jnp.any(x > 0).astype(jnp.result_type(x))


@_nothing.defjvp
def _nothing_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (of_x,) = primals, tangents
    return _nothing(x), _lost.bind(of_x, axes=tuple(range(jnp.ndim(x))))


# Linear as far as JAX has to know: NaN for anything but 0, in both directions. A product with NaN
# would make NaN of 0 as well.
_lost = Primitive("lost_derivative")


def _apply(x: Array, *, axes: tuple[int, ...]) -> Array:
    return jnp.where(jnp.any(x != 0, axis=axes), jnp.nan, jnp.zeros((), x.dtype))


def _shape(x: Any, *, axes: tuple[int, ...]) -> Any:
    return x.update(shape=tuple(n for i, n in enumerate(x.shape) if i not in axes))


def _transposed(cotangent: Any, x: Any, *, axes: tuple[int, ...]) -> list[Any]:
    if type(cotangent) is ad.Zero:
        return [ad.Zero(x.aval)]
    back = jnp.where(cotangent != 0, jnp.nan, jnp.zeros((), cotangent.dtype))
    return [jnp.broadcast_to(jnp.expand_dims(back, axes), x.aval.shape)]


def _batched(args: Any, dims: Any, *, axes: tuple[int, ...]) -> tuple[Any, int]:
    (x,), (dim,) = args, dims
    return _lost.bind(jnp.moveaxis(x, dim, 0), axes=tuple(i + 1 for i in axes)), 0


_lost.def_impl(jax.jit(_apply, static_argnames="axes"))
_lost.def_abstract_eval(_shape)
ad.deflinear2(_lost, _transposed)
batching.primitive_batchers[_lost] = _batched
mlir.register_lowering(_lost, mlir.lower_fun(_apply, multiple_results=False))
