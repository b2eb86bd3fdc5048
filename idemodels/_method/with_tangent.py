"""An explicit solver whose steps are bounded by the error of a derivative of the path as well.

Where stability bounds a step, and not accuracy, each accepted one may amplify a perturbation:
error control takes back what grows in the path, but a derivative is taken with the steps held, and
grows on. So a tangent of the path is carried along, and its error is controlled like the path's. It
begins in a direction of theta that is drawn at random, with a part in every mode.
"""

import dataclasses
from typing import Any

import diffrax as dfx
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._equation import Augmented
from .._types import Flag, Scalar
from .norms import group_norm
from .reporting import Reported


class WithTangent(dfx.AbstractAdaptiveSolver):
    """`solver`, with a tangent in its state where the path is differentiated.

    A step takes a derivative of each gradient then. `Guarded` reads its error.

    - `active`: whether the path is differentiated.
    - `unit`: like the state, the size that counts as one.
    - `tolerance`: of the tangent's error, relative to its size.
    """

    solver: dfx.AbstractSolver
    active: Flag
    unit: Augmented
    tolerance: Any

    @property
    def term_structure(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.solver.term_structure

    @property
    def interpolation_cls(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.solver.interpolation_cls

    @property
    def term_compatible_contr_kwargs(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.solver.term_compatible_contr_kwargs

    def order(self, terms):
        return self.solver.order(terms)

    def strong_order(self, terms):
        return self.solver.strong_order(terms)

    def error_order(self, terms):
        return self.solver.error_order(terms)

    def func(self, terms, t0, y0, args):
        return self.solver.func(terms, t0, y0, args)

    def init(self, terms, t0, t1, y0, args):
        begin = lambda y: self.solver.init(terms, t0, t1, y, args)
        inner, still = _moving(begin(y0))
        direction = _drawn(y0)
        tangent = lambda: jax.jvp(lambda y: _moving(begin(y))[0], (_held(y0),), (direction,))[1]
        zero = lambda: jax.tree.map(jnp.zeros_like, inner)
        of_inner = _held(jax.lax.cond(eqxi.unvmap_any(self.active), tangent, zero))
        return eqx.combine(inner, still), (direction, of_inner)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        inner, along = solver_state
        moving, still = _moving((y0, inner))

        def step(moving, solver):
            y, state = eqx.combine(moving, still)
            return _moving(solver.step(terms, t0, t1, y, args, state, made_jump))

        def both():
            solver = _looped(self.solver, "bounded")  # forwards here, in reverse by the adjoint
            by = lambda moving: step(moving, solver)
            made, tangent, rest = jax.jvp(by, (moving,), (_held(along),), has_aux=True)
            y1, y_error, _, inner, _ = _held(tangent)
            size = self._size(y1)
            size = jnp.where(size > 0, size, 1.0)
            wrong = self._size(y_error) / (self.tolerance * size)
            wrong = jnp.where(jnp.isfinite(size), wrong, jnp.inf)
            return made, rest, jax.tree.map(lambda x: x / size, (y1, inner)), wrong

        def alone():
            return *step(moving, self.solver), along, jnp.zeros_like(self._size(along[0]))

        made, rest, along, wrong = jax.lax.cond(eqxi.unvmap_any(self.active), both, alone)
        y1, y_error, dense, inner, result = eqx.combine(made, rest)
        reported: Any = Reported(y_error, tangent=wrong)
        return y1, reported, dense, (inner, along), result

    def _size(self, y: Augmented) -> Scalar:
        return group_norm(jax.tree.map(jnp.divide, y, self.unit))


@jax.custom_jvp
def is_differentiated(x: PyTree[Array]) -> Scalar:
    """1 where a derivative in any of `x` is taken, of whatever mode; else 0."""
    del x
    return jnp.zeros(())


@is_differentiated.defjvp
def _is_differentiated_jvp(primals: Any, tangents: Any) -> tuple[Scalar, Scalar]:
    del primals, tangents
    return jnp.ones(()), jnp.zeros(())


def looped_for(solver: dfx.AbstractSolver, adjoint: Any) -> dfx.AbstractSolver:
    """`solver`, with a loop over its stages that has the modes of differentiation of `adjoint`.

    diffrax does so itself, where it finds a Runge--Kutta solver that is not wrapped.
    """
    if isinstance(adjoint, dfx.ForwardMode):
        return _looped(solver, "lax")
    return _looped(solver, "bounded") if isinstance(adjoint, dfx.DirectAdjoint) else solver


def _looped(solver: dfx.AbstractSolver, kind: str) -> dfx.AbstractSolver:
    """`solver`, with a loop of this kind over its stages, unless it says one itself."""
    if isinstance(solver, dfx.AbstractRungeKutta) and solver.scan_kind is None:
        none = lambda x: x is None
        solver = eqx.tree_at(lambda s: s.scan_kind, solver, kind, is_leaf=none)
    return solver


def _moving(tree: PyTree[Any]) -> tuple[PyTree[Any], PyTree[Any]]:
    return eqx.partition(tree, eqx.is_inexact_array)


def _held(tree: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(jax.lax.stop_gradient, tree)


def _drawn(y: Augmented) -> Augmented:
    """A direction of signs in theta; memories follow, which at their start are singular."""
    rng = np.random.default_rng(0)
    signs = lambda x: jnp.asarray(rng.choice([-1.0, 1.0], x.shape), x.dtype)
    still = jax.tree.map(jnp.zeros_like, y)
    return dataclasses.replace(still, theta=jax.tree.map(signs, y.theta))
