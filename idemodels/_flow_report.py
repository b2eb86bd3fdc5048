"""What a flow's path tells of itself: how far the next order is, and whether to trust it."""

import dataclasses
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._checks import is_concrete
from ._equation import Augmented, Fixed
from ._flow import (
    DIFFERENCES,
    SETTLED,
    FlowEquation,
    distrust,
    gradients_of_looks,
    looks,
    plan_of,
    roughness_of,
)
from ._results import Trajectory

# At how many states of a path it is asked whether it can be trusted.
_LOOKS = 4
# So many rejected steps are no sign yet that a right-hand side is not smooth, nor is a smaller part
# of all: none on smooth problems, an eighth on the digits network, a fifth where a warm-up ends.
_FEW, _PART = 20, 1 / 6


def with_model_error(trajectory: Trajectory, again: Trajectory) -> Trajectory:
    """The path of a flow, with its distance from that of the next order."""
    floating = lambda path: jax.tree.leaves(eqx.filter(path.theta, eqx.is_inexact_array))
    apart = lambda a, b: jnp.max(jnp.abs(a - b), axis=tuple(range(1, a.ndim)), initial=0)
    leaves = zip(floating(trajectory), floating(again), strict=True)
    error = jnp.max(jnp.stack([apart(a, b) for a, b in leaves]), axis=0)
    made = trajectory.stats["num_gradients"], again.stats["num_gradients"]
    made = jnp.where((made[0] < 0) | (made[1] < 0), -1, made[0] + made[1])
    stats = {**trajectory.stats, "num_gradients": made}
    return dataclasses.replace(trajectory, model_error=error, stats=stats)


def looked_at(equation: FlowEquation, trajectory: Trajectory) -> Trajectory:
    """The path of a flow, after a look whether it can be trusted, where it is known.

    **Warns:** `UserWarning` if not.
    """
    if equation.layout.rough is not None:
        words = distrust(0.0, 0.0, equation.model.stride, equation.layout.rough)
        warnings.warn(str(words), stacklevel=3)
        return trajectory
    path = trajectory.states if trajectory.states is not None else trajectory.last
    if path is None or not is_concrete((trajectory.ts, path, equation)):
        return trajectory
    rejected, tried = (int(trajectory.stats[f"num_{name}"]) for name in ("rejected", "steps"))
    if rejected > max(_FEW, _PART * tried):
        warnings.warn(
            f"The solver rejected {rejected} of {tried} steps: the optimizer's step has kinks or "
            "jumps there. Pass known ones as `kinks`; elsewhere compare with "
            "`idemodels.run_discrete`.",
            stacklevel=3,
        )
        return trajectory
    rows = jax.tree.map(lambda x: x[None], path) if trajectory.states is None else path
    numbers = jax.tree.leaves(eqx.filter((rows.theta, rows.memory), eqx.is_inexact_array))
    finite = [np.isfinite(x).reshape(len(x), -1).all(axis=1) for x in map(np.asarray, numbers)]
    okay = np.all(finite, axis=0)
    theta = eqx.filter(rows.theta, eqx.is_inexact_array)
    states = Augmented(theta, rows.memory, Fixed(jax.tree.map(lambda x: None, theta)))
    at = np.atleast_1d(np.asarray(rows.s))
    smooth = _smooth_ahead(equation, jax.tree.map(lambda x: x[0], states), at)
    chosen = np.flatnonzero(okay & (at >= SETTLED) & smooth)
    if chosen.size == 0:
        return trajectory
    chosen = chosen[np.unique(np.linspace(0, chosen.size - 1, _LOOKS + 1).astype(int)[1:])]
    fifth, first, spread = looks(equation, jax.tree.map(lambda x: x[chosen], states))
    roughness, farthest = roughness_of(fifth, first), float(jnp.max(spread))
    words = distrust(roughness, farthest, equation.model.stride)
    if words is not None:
        warnings.warn(words, stacklevel=3)
    made = jnp.asarray(gradients_of_looks(equation, chosen.size))
    stats = {**trajectory.stats, "num_check_gradients": made}
    return dataclasses.replace(trajectory, stats=stats)


def _smooth_ahead(equation: FlowEquation, y: Augmented, at: np.ndarray) -> np.ndarray:
    """Of the steps `at`, at the first of which the state is `y`: whether a look meets no kink."""
    far = DIFFERENCES * equation.model.stride
    ts = jnp.asarray(np.append(at, at[-1] + far))
    kinks = np.asarray(plan_of(equation, y, ts[0], ts).kinks)
    return ~np.any((kinks > at[:, None]) & (kinks < at[:, None] + far), axis=1)
