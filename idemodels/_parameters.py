"""Parameters and objective, as both sides of a comparison take them."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ._types import Objective, Theta

# What is computed in; other floating types, of 8 bits or fewer, are for storage.
_TYPES = ("float16", "bfloat16", "float32", "float64")


def as_parameters(theta0: Theta, *, half: bool = False) -> tuple[PyTree[Array], PyTree[Any]]:
    """`theta0` apart: its floating arrays, all of one type, and the rest.

    The type is the widest of theirs and float32, since no equation is solved in less.

    **Arguments:**

    - `half`: whether half precision stays as it is, which an optimizer runs in.

    **Raises:** `ValueError` if it has no floating arrays, empty ones only, or arrays of a type that
    is neither of `half` nor of single or double precision.
    """
    if isinstance(theta0, float | int) and not isinstance(theta0, bool):
        theta0 = jnp.asarray(theta0, jnp.result_type(float))
    theta, rest = eqx.partition(theta0, eqx.is_inexact_array)
    leaves = jax.tree.leaves(theta)
    if not any(x.size for x in leaves):
        kinds = sorted({_kind(x) for x in jax.tree.leaves(theta0)})
        found = f"has only {', '.join(kinds)}" if kinds else "is empty"
        hint = ""
        if any(isinstance(x, float) for x in jax.tree.leaves(theta0)):
            hint = " Python's floats inside a pytree are held fixed: write `jnp.asarray(1.0)`."
        if any(_is_integer(x) for x in jax.tree.leaves(theta0)):
            hint = " Integer arrays are held fixed: write `theta0.astype(float)`."
        raise ValueError(f"Argument `theta0` must have floating arrays, but {found}.{hint}")
    for x in leaves:
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            raise ValueError(
                f"Argument `theta0` must be real, but has an array of type {x.dtype}. Pass real "
                "and imaginary parts as two arrays."
            )
        if x.dtype.name not in _TYPES:
            raise ValueError(
                f"Argument `theta0` must have arrays of {', '.join(_TYPES[:-1])} or {_TYPES[-1]}, "
                f"but has one of type {x.dtype}. Write `theta0.astype(jnp.float32)`."
            )
    with jax.numpy_dtype_promotion("standard"):
        least = [] if half else [jnp.float32]
        dtype = jnp.result_type(*[x.dtype for x in leaves], *least)
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), theta), rest


def check_objective(objective: Objective, theta: Theta, args: PyTree[Any]) -> None:
    """Raises unless the objective returns one real number; nothing is computed for that."""
    if not callable(objective):
        raise ValueError(
            f"Argument `objective` must be callable, `objective(theta)`, but is {objective!r}."
        )
    given = (theta,) if args is None else (theta, args)
    check_real_scalar("objective", objective, *given)


def check_real_scalar(name: str, f: Any, *given: Any) -> None:
    """Raises unless the argument `name`, a function, returns one real number of `given`."""
    out = eqx.filter_eval_shape(f, *given)
    if isinstance(out, float):
        return
    shape, dtype = getattr(out, "shape", None), getattr(out, "dtype", np.dtype(object))
    if shape != () or not jnp.issubdtype(dtype, jnp.floating):
        found = repr(out) if shape is None else f"shape {shape} of type {dtype}"
        raise ValueError(f"Argument `{name}` must return a real scalar, but returns {found}.")


def check_model(model: Any, kind: type | tuple[type, ...], wanted: str) -> None:
    """Raises unless `model` is a `kind`."""
    if not isinstance(model, kind):
        raise ValueError(f"Argument `model` must be {wanted}, but is {model!r}.")


def _is_integer(x: Any) -> bool:
    return eqx.is_array(x) and bool(jnp.issubdtype(x.dtype, jnp.integer))


def _kind(x: Any) -> str:
    return f"an array of type {np.dtype(x.dtype)}" if eqx.is_array(x) else f"a {type(x).__name__}"
