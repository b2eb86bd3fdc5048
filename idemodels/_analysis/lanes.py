"""Equation and discrete run for many hyperparameters, each one program."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._discrete import iterates
from .._equation import cast, dtype_of
from .._method import AbstractMethod
from .._programs import program
from .._results import is_okay, losses
from .._solve import solve
from .._target import Base, target_of


class Lanes(NamedTuple):
    """Both paths of every lane at its marks, leaves `(lanes, T, ...)`.

    - `path`, `run`: theta of the equation and of the discrete run; `path_loss`, `run_loss`.
    - `okay`: whether the solve succeeded, `(lanes,)`.
    """

    path: PyTree[Array]
    path_loss: Array
    run: PyTree[Array]
    run_loss: Array
    okay: Array


def leaves_of(base: Base, values: dict[str, np.ndarray]) -> dict[str, Any]:
    """The values by name, `(lanes,)` each, as what the model holds them as.

    **Raises:** `ValueError` for a name that there is not.
    """
    dtype = dtype_of(base.theta0)
    leaves = {name: target_of(base, name, "over").leaves(base, x) for name, x in values.items()}
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), leaves)


@program
def both(base: Base, leaves: dict[str, Any], marks: Array, method: AbstractMethod) -> Lanes:
    """Solves and runs every lane. `base.theta0` has floating arrays alone.

    - `marks`: the steps of each lane, integers `(lanes, T)` from 0.
    """
    dtype = dtype_of(base.theta0)
    args = () if base.args is None else (base.args,)
    loss = lambda theta: base.objective(theta, *args)

    def lane(values, marks):
        changed = base
        for name, value in values.items():
            changed = target_of(base, name, "over").put(changed, value)
        ts = marks.astype(dtype)
        given = changed.model, base.objective, base.theta0, ts
        path = solve(*given, args=base.args, method=method, throw=False)
        run = iterates(cast(changed.model, dtype), loss, base.theta0, jnp.diff(marks))
        return Lanes(path.theta, path.loss, run, losses(loss, run), is_okay(path.result))  # pyright: ignore

    return jax.vmap(lane)(leaves, marks)
