"""Modules that hold arrays and have a hash, so that they may be static arguments or keys."""

from typing import Any

import equinox as eqx
import jax
import jax.core
import numpy as np


class Hashed(eqx.Module):
    """A module whose hash is that of its values: two that are equal have the same.

    Equality is Equinox's: same structure, types and values. Arrays are to be left as they are while
    a module is a key.
    """

    def __hash__(self) -> int:
        """**Raises:** `TypeError` where an array is traced: it has no value yet."""
        return hash((type(self), *(_hash(type(self), x) for x in jax.tree.leaves(self))))


def _hash(kind: type, leaf: Any) -> int:
    if isinstance(leaf, jax.core.Tracer):
        raise TypeError(
            f"`{kind.__name__}` has no hash where its arrays are traced; one is {leaf.dtype} of "
            f"shape {leaf.shape}. Pass it to the function as an argument that is not static."
        )
    if not eqx.is_array(leaf):
        return hash(leaf)
    array = np.asarray(leaf)
    # -0. equals 0., but has other bytes
    return hash((array.shape, array.dtype.name, (array + np.zeros((), array.dtype)).tobytes()))
