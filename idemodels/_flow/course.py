"""What an optimizer's update has of its counters alone: schedules, and bias corrections."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._programs import program
from .state import Layout
from .walk import Known, Met, walk

# Samples for each step. A jump between two of them is told from a sine of three steps.
FINE = 8
# Steps that one call of the compiled program samples.
_CHUNK = 1024


class Course(eqx.Module):
    """What an update has of its counters alone, along a stretch of steps.

    - `first`: the step at which it begins.
    - `values`: at `FINE` places for each step, shape `(n, f)`: one column for each function.
    - `unsure`: whether there is more of it, which is traced.
    - `eps`: of the lowest precision in which it was computed.
    """

    first: int = eqx.field(static=True)
    values: Float[np.ndarray, "n f"]
    unsure: bool = eqx.field(static=True)
    eps: float = eqx.field(static=True)


def course_of(
    update: Any,
    layout: Layout,
    theta: PyTree[Array],
    opt_state: Any,
    offsets: tuple[int, ...],
    first: int,
    last: int,
) -> Course:
    """What of an update depends on the counters alone, from one step to another.

    Nothing of the size of the parameters is computed. What is traced counts as unknown.

    **Arguments:**

    - `update`: of gradient, state and parameters.
    - `theta`, `opt_state`: what their shapes are.
    - `offsets`: of the counters, in the order of the state's leaves, from the step.
    """
    like = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
    theta, opt_state = jax.tree.map(like, (theta, opt_state))
    known = tuple(None if isinstance(x, jax.core.Tracer) else x for x in layout.fixed)
    layout = dataclasses.replace(layout, fixed=known)
    dtype = jax.tree.leaves(theta)[0].dtype
    met = _met(update, layout, theta, opt_state, None)
    met.eps = max(met.eps, float(jnp.finfo(dtype).eps))
    if not met.values:
        return Course(first, np.zeros((0, 0)), met.unsure, 0.0)
    columns = []
    with jax.ensure_compile_time_eval():
        for begin in range(first, last, _CHUNK):
            at = begin + np.arange(_CHUNK * FINE) / FINE
            counters = [jnp.asarray(at + offset, dtype) for offset in offsets]
            sampled = _sampled(update, layout, theta, opt_state, tuple(counters))
            columns.append(np.asarray(sampled, np.float64))
    values = np.concatenate(columns)[: (last - first) * FINE + 1]
    distinct = {column.tobytes(): column for column in values.T}
    return Course(first, np.stack(list(distinct.values()), axis=1), met.unsure, met.eps)


@program
def _sampled(
    update: Any, layout: Layout, theta: Any, opt_state: Any, counters: tuple[Array, ...]
) -> Float[Array, "n f"]:
    def one(counters):
        met = _met(update, layout, theta, opt_state, counters)
        flat = [jnp.ravel(x).astype(counters[0].dtype) for x in met.values.values()]
        return jnp.concatenate(flat)

    return jax.vmap(one)(counters)


def _met(update: Any, layout: Layout, theta: Any, opt_state: Any, counters: Any) -> Met:
    """What a walk through an update meets; `None` for `counters` only looks what there is."""

    def step(g, opt_state, theta):
        with jax.numpy_dtype_promotion("standard"):
            return update(g, opt_state, theta)

    program = jax.make_jaxpr(step)(theta, opt_state, theta)
    left = iter(() if counters is None else counters)
    state = []
    for counts, moves, fixed in zip(layout.counts, layout.moves, layout.fixed, strict=True):
        if counts:
            value = next(left, True)
            state.append(Known(value, counted=True, source=value))
        else:
            state.append(Known(fixed, moved=moves, source=fixed))
    parameters = [Known(moved=True)] * len(jax.tree.leaves(theta))
    met = Met()
    made = walk(program, [*parameters, *state, *parameters], met, counters is not None)
    # updates, and what the next step is given
    kept = [True] * len(parameters) + [not counts for counts in layout.counts]
    for x, keeps in zip(made, kept, strict=True):
        if keeps and x.counted and x.value is not None:
            met.values[id(x.source)] = x.source
    return met
