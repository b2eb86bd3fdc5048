"""Linear solves that fail as values."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx


class Quiet(lx.AbstractLinearSolver):
    """A linear solver whose failure is no exception: the caller looks at what came of it.

    lineax raises where a number is not finite or an iteration stagnates, also inside of a Newton
    iteration that was told not to. Numbers that are not finite become 0.
    """

    solver: lx.AbstractLinearSolver

    def init(self, operator: Any, options: Any) -> Any:
        return self.solver.init(operator, options)

    def compute(self, state: Any, vector: Any, options: Any) -> tuple[Any, Any, Any]:
        vector = jax.tree.map(_finite, vector)
        solution, _, stats = self.solver.compute(state, vector, options)
        return jax.tree.map(_finite, solution), lx.RESULTS.successful, stats

    def transpose(self, state: Any, options: Any) -> tuple[Any, Any]:
        return self.solver.transpose(state, options)

    def conj(self, state: Any, options: Any) -> tuple[Any, Any]:
        return self.solver.conj(state, options)

    def assume_full_rank(self) -> bool:
        return self.solver.assume_full_rank()


def _finite(x: Any) -> Any:
    return jnp.where(jnp.isfinite(x), x, 0.0) if eqx.is_inexact_array(x) else x
