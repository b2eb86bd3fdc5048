"""A run with some of its values moved, by the equation or by the discrete algorithm."""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._discrete import run_discrete
from ._method import AbstractMethod
from ._results import Trajectory
from ._solve import solve
from ._target import Base, Target, dtype_of_base


class Run(eqx.Module):
    """A path as a function of how far each name is moved.

    - `targets`: by name, what may be moved.
    - `marks`: the steps at which it is kept, integers from 0.
    """

    base: Base
    targets: dict[str, Target]
    marks: tuple[int, ...] = eqx.field(static=True)
    method: AbstractMethod

    def path(
        self, moved: dict[str, Any], continuous: bool, adjoint: dfx.AbstractAdjoint | None = None
    ) -> Trajectory:
        """The equation's path where `continuous`, else the discrete run; a failure is a result."""
        base = self.base
        for name, by in moved.items():
            base = self.targets[name].moved(base, by)
        given = base.model, base.objective, base.theta0
        if not continuous:
            return run_discrete(*given, self.marks[-1], ts=self.marks, args=base.args)
        ts = np.asarray(self.marks, float)  # known, which some methods need
        options = {"args": base.args, "method": self.method, "adjoint": adjoint}
        return solve(*given, ts, throw=False, **options)

    def still(self) -> dict[str, Any]:
        """No name moved."""
        dtype = dtype_of_base(self.base)
        zeros = lambda target: jax.tree.map(jnp.zeros_like, floating(target.of(self.base)))
        return {
            name: zeros(target) if target.decay(self.base) is None else jnp.zeros((), dtype)
            for name, target in self.targets.items()
        }


def floating(tree: Any) -> Any:
    """The floating arrays of a tree."""
    return jax.tree.map(jnp.asarray, eqx.filter(tree, eqx.is_inexact_array))
