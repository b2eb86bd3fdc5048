"""Checks of arguments, so that all wordings agree.

A value that is known now raises `ValueError` at once. A traced value cannot raise: it is turned
into a flag instead, and the solve of that lane ends as `RESULTS.invalid_argument`.
"""

import difflib
from collections.abc import Iterable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np


def is_concrete(x: Any) -> bool:
    """Whether every array in the pytree `x` is known now, not traced."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(x))


def as_hyperparameter(x: Any, name: str) -> Any:
    """A scalar, kept on the host in double precision where it is known, as an array either way.

    As an array it is a leaf that can be swept and differentiated, and a new value does not
    recompile; on the host, `import` and construction start no device.
    """
    value = as_array(x, name, "a number")
    if value.ndim != 0:
        found = f"Argument `{name}` must be a scalar, but has shape {tuple(value.shape)}."
        raise ValueError(f"{found} For many values at once use `jax.vmap`.")
    return value


def as_array(x: Any, name: str, what: str) -> Any:
    """In double on the host where it is known; a traced value as it is."""
    if isinstance(x, jax.core.Tracer):
        return x
    try:
        return np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"Argument `{name}` must be {what}, but is {x!r}.") from None


def check_positive(x: Any, name: str) -> None:
    """Raises unless `0 < x < inf`, where `x` is known."""
    if is_concrete(x) and not bool(is_positive(x)):
        raise ValueError(f"Argument `{name}` must be positive and finite, but is {float(x)}.")


def check_finite(x: Any, name: str) -> None:
    """Raises unless `x` is finite, where `x` is known."""
    if is_concrete(x) and not np.all(np.isfinite(x)):
        raise ValueError(f"Argument `{name}` must be finite, but is {float(x)}.")


def is_positive(x: Any) -> Any:
    """A flag, traced or not: `0 < x < inf`."""
    return (x > 0) & (x < jnp.inf)


def all_finite(tree: Any) -> Any:
    """A flag, traced or not: whether no number in the pytree `tree` is NaN or infinite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]))


def check_option(x: Any, name: str, options: Iterable[str]) -> None:
    """Raises unless `x` is one of `options`; names the nearest one."""
    options = list(options)
    if x not in options:
        listed = ", ".join(repr(option) for option in options)
        raise ValueError(
            f"Argument `{name}` must be one of {listed}, but is {x!r}.{near(x, options)}"
        )


def near(x: Any, options: Iterable[str]) -> str:
    """` Did you mean 'closure'?`, or nothing."""
    matches = difflib.get_close_matches(str(x), list(options), n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def check_count(x: Any, name: str) -> None:
    """Raises unless the argument is a positive integer."""
    if isinstance(x, bool) or not isinstance(x, int | np.integer) or x < 1:
        raise ValueError(f"Argument `{name}` must be a positive integer, but is {x!r}.")


def by_name(tree: Any) -> dict[str, Any]:
    """The arrays of a pytree by their paths: structures may be unequal that have the same ones."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): x for path, x in leaves if hasattr(x, "shape")}


def first_difference(name: str, a: Any, b: Any, sides: tuple[str, str]) -> str | None:
    """The first array called `name` that only one of the `sides` has, or in another shape.

    In words; `None` if they have the same.
    """
    ours, theirs = by_name(a), by_name(b)
    for path in [*ours, *theirs]:
        if path not in ours or path not in theirs:
            return f"only {sides[0] if path in ours else sides[1]} has {name}{path}"
        shapes = ours[path].shape, theirs[path].shape
        if shapes[0] != shapes[1]:
            return f"{name}{path} has the shapes {shapes[0]} and {shapes[1]}"
    return None
