"""Derivatives of a gradient, also of an objective that has no forward mode."""

import re
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float, PyTree

# What JAX and Equinox say of a function without a derivative of some mode: `jax.custom_vjp` in
# forward mode, a callback in either, a loop of unknown length in reverse mode.
_NONE = re.compile(r"custom_vjp|JVP|jvp|ifferentia|[Tt]ranspos")
_ERRORS = (TypeError, ValueError, RuntimeError, NotImplementedError)


def jacobian(f: Callable[[Array], Array], x: Float[Array, " n"]) -> Float[Array, "n n"]:
    """The Jacobian: by forward mode, or by reverse mode where `f` has no other.

    Which one is found while it is traced, so that nothing is compiled twice.

    **Raises:** `ValueError` that names the objective, if there is neither.
    """
    found, error = _failure(lambda: jax.jacfwd(f)(x))
    if error is None:
        return found
    return _checked(*_failure(lambda: jax.jacrev(f)(x)))


def linearized(f: Callable[[Any], Any], x: PyTree[Array]) -> tuple[Any, Callable[[Any], Any]]:
    """`f(x)`, and its derivative as a function of a direction.

    **Raises:** as `jacobian`.
    """

    if has_forward(f, x):
        return jax.linearize(f, x)

    def by_reverse():
        y, pull = jax.vjp(f, x)
        # `pull` is linear, and its transpose is what forward mode would be
        push = jax.linear_transpose(lambda u: pull(u)[0], y)
        return y, lambda direction: push(direction)[0]

    return _checked(*_failure(by_reverse))


def pushed(f: Callable[[Any], Any], x: PyTree[Array], direction: PyTree[Array]) -> Any:
    """The derivative of `f` at `x` in a direction.

    **Raises:** as `jacobian`.
    """
    if has_forward(f, x):
        return jax.jvp(f, (x,), (direction,))[1]
    return linearized(f, x)[1](direction)


def has_forward(f: Callable[[Any], Any], x: PyTree[Array]) -> bool:
    """Whether `f` has forward mode, which is only traced; nothing is computed."""

    def slopes(x):
        # for one direction alone JAX finds out no earlier than when it compiles
        row = jax.tree.map(lambda x: x[None], x)
        return jax.vmap(lambda direction: jax.jvp(f, (x,), (direction,)))(row)

    return _failure(lambda: jax.eval_shape(slopes, x))[1] is None


def has_jacobian(f: Callable[[Any], Any], x: PyTree[Array]) -> bool:
    """Whether `jacobian` would find one for `f` from `x` to its like; nothing is computed."""
    if has_forward(f, x):
        return True
    return _failure(lambda: jax.eval_shape(lambda x: jax.vjp(f, x)[1](x), x))[1] is None


def lack_of_derivative(way: Callable[[], Any]) -> Exception | None:
    """What JAX says where `way` takes a derivative that a function does not have."""
    return _failure(way)[1]


def no_derivative(e: Exception) -> bool:
    """Whether an error says that a function has no derivative of some mode."""
    return isinstance(e, _ERRORS) and _NONE.search(str(e)) is not None


def _checked(found: Any, error: Exception | None) -> Any:
    """What was found by reverse mode, where there was no other."""
    if error is None:
        return found
    raise ValueError(
        "Argument `objective` must have a gradient that can be differentiated once more, but has "
        f"not: {str(error).splitlines()[0]} Give it its derivative by `jax.custom_jvp`, in "
        "operations that JAX can differentiate."
    )


def _failure(way: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """What `way` returns, or that there is no derivative; any other error is raised."""
    try:
        return way(), None
    except _ERRORS as e:
        if not no_derivative(e):
            raise
        return None, e
