"""What every solve returns: a `Trajectory`, and how it ended."""

from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from ._lost import without_derivative
from ._types import Moments, Path, Theta

# Of the learning rate's integral: panels at least, and Gauss's nodes in each.
_PANELS, _GAUSS = 4096, 4


class RESULTS(dfx.RESULTS):  # pyright: ignore[reportGeneralTypeIssues]
    """How a solve ended. diffrax's own reasons, and those that it cannot know."""

    successful = ""
    invalid_argument = (
        "A traced argument has a value that is not allowed: a hyperparameter outside its range, "
        "`ts` that does not increase from its start, or a gradient that is not finite at `theta0`. "
        "Outside of `jit`, `vmap` and `grad` the same call raises an error that names the argument."
    )
    steady_state = (
        "The path came to rest before its end, and is held from there on: nothing that is still to "
        "come moves it by more than `steady_tol` of its range. `stats['steady_at']` tells since "
        "when."
    )
    nonfinite_gradient = (
        "The gradient became NaN or infinite, or the direction computed from it. Look at the "
        "objective near the last finite `theta` of the path (`throw=False` returns it); a smaller "
        "`learning_rate` may keep away."
    )
    nonfinite_rate = (
        "The learning rate became NaN, infinite or negative. Look at the schedule at the step "
        "where the path ends (`throw=False` returns it): it is called with steps that are not "
        "whole numbers."
    )
    diverged = (
        "The path diverged: theta grew beyond 1e8 times its first size. Lower `learning_rate`, or "
        "check the signs of the objective, of `l2` and of `weight_decay`."
    )
    negative_second_moment = (
        "The second moment fell below zero, where it was read as zero: with b2 < 1/2 its kernel "
        "changes sign. Raise `b2` to 1/2 or more, lower `learning_rate`, or shorten `ts`; "
        "`stats['num_clamped']` counts the steps."
    )
    fixed_point_not_reached = (
        "The fixed point of the advanced equation was not reached: its residual, "
        "`stats['residual']`, is above the tolerance. Shorten `ts`, lower `learning_rate`, raise "
        "`max_sweeps`, or use the reading 'closure', its nearest ODE."
    )
    mesh_too_coarse = (
        "The elements of the collocation are too few for the path: `stats['solver_error']` is "
        "above the tolerance. Raise `elements`, or `tol`."
    )
    invalid_kernel = (
        "A kernel is negative, infinite or NaN at a lag where it was sampled. The same call "
        "outside of jit names it."
    )
    step_too_small = (
        "The solver's step became too small for the precision of s: the equation is too stiff "
        "there, or not smooth. Raise `rtol`, use float64, or shorten `ts`."
    )


def is_okay(result: RESULTS) -> Bool[Array, "*lanes"]:
    """Whether a solve did what was asked: done, at rest, or stopped by the user's event."""
    done = (result == RESULTS.successful) | (result == RESULTS.steady_state)
    return done | (result == RESULTS.event_occurred)


class State(eqx.Module):
    """Where a path can be taken up again: `solve(..., state0=state)`.

    - `s`: the optimizer steps made, a scalar; `None` where an optimizer's state does not say.
    - `theta`: the parameters; `None` where they are to come from `theta0`.
    - `memory`: dict from a memory's name to its states; leaves `(n, *shape)`, n the order of its
        kernel's linear system (1 for `Exponential` and `Constant`).
    - `velocity`: d theta/ds, like `theta`, of a model of second order; else `None`.
    """

    s: Any
    theta: Theta
    memory: dict[str, PyTree[Any]]
    velocity: PyTree[Any] = None


class Trajectory(eqx.Module):
    """A path, continuous or discrete.

    - `ts`: the optimizer steps at which it is known, shape `(T,)`.
    - `times`: the papers' time t at them, the integral of the learning rate over `ts`, shape
        `(T,)`; `None` where the learning rate is not known.
    - `theta`: the parameters, a pytree whose floating arrays have a leading axis T; or what `save`
        returned.
    - `loss`: the objective, without `l2`, shape `(T,)`; `None` where there was no objective.
    - `moments`: dict from name ("m", "v", "G") to pytrees like `theta`: the raw memories at s,
        without bias correction; empty where `save` was given.
    - `result`: an [`idemodels.RESULTS`][]; see [`idemodels.is_okay`][].
    - `stats`: dict of counts. `num_steps` (accepted and rejected), `num_rejected`,
        `num_gradients` (-1 where a solver of the user's does not tell), `implicit_from` (the step
        from which an implicit solver was used; infinite if it never was), `steady_at` (the step
        at which it came to rest; infinite if it did not), `solver_error` (an estimate of the
        solver's error in theta, which `Markov` adds up from its steps and `FixedPoint` has from
        between its nodes), `converged` (whether that is at most 10 times `rtol` of the range: False
        where `Markov` bounded the price of a path). Each method and model may add its own.
    - `model_error`: of a flow made with `predict_error`: how far order p + 1 is away, at each of
        `ts`; `None` elsewhere. Its largest value foretells that of the error; at a single step it
        is of no use where the error changes its sign, as it does along a path with inertia.
    - `source`: "equation" from [`idemodels.solve`][], "discrete" from [`idemodels.run_discrete`][],
        "arrays" from `from_arrays`.

    Past a failure all values are NaN.
    """

    ts: Path
    times: Path | None
    theta: PyTree[Any]
    loss: Path | None
    moments: Moments
    result: Any
    stats: dict[str, Any]
    states: State | None
    last: State | None
    source: str = eqx.field(default="arrays", static=True)
    model_error: Path | None = None

    @classmethod
    def from_arrays(cls, ts: Any, theta: PyTree[Any], moments: Moments | None = None):
        """A path made elsewhere, to be compared.

        **Arguments:**

        - `ts`: the optimizer steps, shape `(T,)`.
        - `theta`, `moments`: pytrees of arrays with a leading axis T.

        **Raises:** `ValueError` if a leading axis differs from `ts`.
        """
        ts = jnp.asarray(ts)
        ts = ts if jnp.issubdtype(ts.dtype, jnp.floating) else ts.astype(jnp.result_type(float))
        as_arrays = lambda x: jnp.asarray(x) if eqx.is_inexact_array_like(x) else x
        theta = jax.tree.map(as_arrays, theta)
        moments = {name: jax.tree.map(as_arrays, m) for name, m in (moments or {}).items()}
        for leaf in filter(eqx.is_inexact_array, jax.tree.leaves((theta, moments))):
            if jnp.ndim(leaf) == 0 or leaf.shape[0] != ts.size:
                raise ValueError(
                    f"Arguments `theta` and `moments` must have a leading axis of {ts.size}, the "
                    f"length of `ts`, but have an array of shape {jnp.shape(leaf)}."
                )
        return cls(ts, None, theta, None, moments, RESULTS.successful, {}, None, None)

    def state_at(self, k: int) -> State:
        """The state at `ts[k]`, to go on from.

        **Raises:** `ValueError` if the path kept no states: it was made with `save=` (then its last
        one, `state_at(-1)`, is kept), by `History`, or not by `solve`. `IndexError` if there is no
        `ts[k]`.
        """
        size = self.ts.shape[-1]
        if not -size <= k < size:
            raise IndexError(f"Argument `k` must lie in [-{size}, {size}), but is {k}.")
        if self.last is not None and k % size == size - 1:
            return self.last
        if self.states is None:
            if self.last is None:
                raise ValueError(
                    f"Argument `k` is {k}, but this path keeps no states: it was not made by "
                    "`solve`, or by the method `History`, whose memories are their whole past."
                )
            raise ValueError(
                f"Argument `k` must be -1, the last state, but is {k}: this path keeps no states. "
                "Call `solve` without `save`."
            )
        return jax.tree.map(lambda x: x[k] if eqx.is_inexact_array(x) else x, self.states)


def integrated_rate(alpha: Any, ts: Path, edges: Any = None) -> Path:
    r"""The papers' time $t(s) = \int_0^s \alpha$, at every one of `ts`.

    **Arguments:**

    - `alpha`: the learning rate as a function of s.
    - `ts`: shape `(T,)`, increasing, not negative.
    - `edges`: where the rate jumps or has a kink, shape `(b,)`; `None` for a constant rate.

    By Gauss's rule on panels, which end at all of `ts`, at the edges, and where 4,096 equal ones
    do. A constant rate needs no panels.
    """
    if edges is None:
        return alpha(ts[-1]) * ts
    nodes, weights = np.polynomial.legendre.leggauss(_GAUSS)
    even = ts[-1] * jnp.linspace(0.0, 1.0, _PANELS + 1, dtype=ts.dtype)
    ends = jnp.sort(jnp.concatenate([even, ts, jnp.clip(edges, 0.0, ts[-1])]))
    left, width = ends[:-1], jnp.diff(ends)
    points = left[:, None] + width[:, None] * jnp.asarray(0.5 + 0.5 * nodes, ts.dtype)[None]
    rates: Float[Array, "p n"] = jax.vmap(jax.vmap(alpha))(points)
    gained = 0.5 * width * (rates @ jnp.asarray(weights, ts.dtype))
    total = jnp.concatenate([jnp.zeros(1, ts.dtype), jnp.cumsum(gained)])
    return total[jnp.searchsorted(ends, ts)]


def fill_past(kept: Any, tree: PyTree[Array], given: PyTree[Any]) -> PyTree[Array]:
    """NaN in every row that is not `kept` (shape `(T,)`), and in its derivatives in `given`."""
    unknown = jnp.nan + without_derivative(given)

    def leaf(x):
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return x
        return jnp.where(
            kept.reshape((-1,) + (1,) * (x.ndim - 1)), x, jnp.asarray(unknown, x.dtype)
        )

    return jax.tree.map(leaf, tree)


def losses(objective: Any, thetas: PyTree[Array]) -> Float[Array, " t"]:
    """The objective at every row, one after another, so that the memory is one evaluation's."""
    return jax.lax.map(objective, thetas)
