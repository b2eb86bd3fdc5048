"""Parameters and objective, as both sides of a comparison take them."""

import inspect
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ._programs import outermost
from ._second import lack_of_derivative
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
        found = f"has only {', '.join(kinds)}" if kinds else "has no leaves but None"
        found = f"has empty ones only, of shape {leaves[0].shape}" if leaves else found
        if jax.tree.structure(theta0, is_leaf=lambda x: x is None).num_leaves == 0:
            found = "is empty"
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
                f"but has one of type {x.dtype}. Write `x.astype(jnp.float32)` for it."
            )
    with jax.numpy_dtype_promotion("standard"):
        least = [] if half else [jnp.float32]
        dtype = jnp.result_type(*[x.dtype for x in leaves], *least)
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), theta), rest


def check_objective(objective: Objective, theta: Theta, args: PyTree[Any]) -> None:
    """Raises unless the objective returns one real number that has a gradient.

    It is traced for that, once for arguments of the same shapes, and nothing is computed.
    """
    # what is closed over in a trace is not to be kept
    seen = _shapes((objective, theta, args)) if outermost() else None
    if seen is not None and seen in _FINE:
        return
    _check_objective(objective, theta, args)
    if seen is not None:
        _FINE[seen] = None
        while len(_FINE) > _REMEMBERED:
            del _FINE[next(iter(_FINE))]


# The objectives that were found to be as they must be last, with the shapes of their arguments.
_FINE: dict[Any, None] = {}
_REMEMBERED = 64


def _shapes(tree: PyTree[Any]) -> Any:
    """What a program of `tree` depends on, where it can be compared; else `None`."""
    leaves, structure = jax.tree.flatten(tree)
    kind = lambda x: (x.shape, x.dtype) if isinstance(x, jax.Array | np.ndarray) else (type(x), x)
    found = structure, tuple(kind(x) for x in leaves)
    try:
        hash(found)
    except TypeError:
        return None
    return found


def _check_objective(objective: Objective, theta: Theta, args: PyTree[Any]) -> None:
    if not callable(objective):
        raise ValueError(
            f"Argument `objective` must be callable, `objective(theta)`, but is {objective!r}."
        )
    given = (theta,) if args is None else (theta, args)
    _check_takes(objective, args is not None)
    check_real_scalar("objective", objective, *given)
    moving, rest = eqx.partition(theta, eqx.is_inexact_array)
    value = lambda moving: objective(eqx.combine(moving, rest), *given[1:])
    error = lack_of_derivative(lambda: jax.eval_shape(jax.grad(value), moving))
    if error is not None:
        raise ValueError(
            "Argument `objective` must have a gradient by reverse mode, but has none: "
            f"{_first_line(error)} Write a loop as `jax.lax.scan`, or as `jax.lax.fori_loop` from "
            "one Python integer to another. Give any other function its gradient by "
            "`jax.custom_vjp`."
        ) from error


def _check_takes(objective: Any, with_args: bool) -> None:
    """Raises unless the objective can be called as it is going to be."""
    try:
        signature = inspect.signature(objective)
    except (TypeError, ValueError):  # as of a function written in C
        return
    try:
        signature.bind(*(None,) * (2 if with_args else 1))
    except TypeError as e:
        wanted, hint = "`objective(theta)`", "What else it needs is given as `args`."
        if with_args:
            wanted = "`objective(theta, args)`, since `args` is given"
            hint = "What it needs is one pytree: write `args=(x, y)` and unpack it inside."
        raise ValueError(
            f"Argument `objective` must be callable as {wanted}, but has the signature "
            f"{signature}: {e}. {hint}"
        ) from e


def check_real_scalar(name: str, f: Any, *given: Any) -> None:
    """Raises unless the argument `name`, a function, returns one real number of `given`."""
    try:
        out = eqx.filter_eval_shape(f, *given)
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as e:
        raise ValueError(
            f"Argument `{name}` must be a function that JAX can trace, but needs the value of an "
            f"array: {_first_line(e)} Write `jnp` for `np`, and `jnp.where` or `jax.lax.cond` "
            "for `if`."
        ) from e
    except jax.errors.NonConcreteBooleanIndexError as e:
        raise ValueError(
            f"Argument `{name}` must be a function that JAX can trace, but has a boolean "
            "index, whose result has no known shape. Write `jnp.where(mask, x, 0)` for `x[mask]`."
        ) from e
    if isinstance(out, float):
        return
    shape, dtype = getattr(out, "shape", None), getattr(out, "dtype", np.dtype(object))
    if shape == () and jnp.issubdtype(dtype, jnp.floating):
        return
    if shape is None:
        found, hint = eqx.tree_pformat(out, struct_as_array=True, width=1000), ""
        if isinstance(out, tuple):
            hint = " Return the number alone; what goes with it is computed from the trajectory."
    else:
        found, hint = f"shape {shape} of type {dtype}", " Write `.astype(float)`."
        if jnp.issubdtype(dtype, jnp.complexfloating):
            hint = " Write `.real`, or `jnp.abs(...)`."
        if shape:
            hint = " Write `.sum()`, or `.mean()`."
    raise ValueError(f"Argument `{name}` must return a real scalar, but returns {found}.{hint}")


def _first_line(e: Exception) -> str:
    """Of what an error says, as a sentence."""
    return str(e).splitlines()[0].rstrip(".") + "."


def check_model(model: Any, kind: type | tuple[type, ...], wanted: str) -> None:
    """Raises unless `model` is a `kind`."""
    if not isinstance(model, kind):
        raise ValueError(f"Argument `model` must be {wanted}, but is {model!r}.")


def _is_integer(x: Any) -> bool:
    return eqx.is_array(x) and bool(jnp.issubdtype(x.dtype, jnp.integer))


def _kind(x: Any) -> str:
    return f"an array of type {np.dtype(x.dtype)}" if eqx.is_array(x) else f"a {type(x).__name__}"
