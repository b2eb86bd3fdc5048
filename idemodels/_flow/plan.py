"""Where a flow's path is not smooth, and how long its solver's steps may be."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import is_concrete
from .._equation import Augmented
from .._types import Path, Scalar
from .course import course_of
from .equation import FlowEquation
from .kinks import coned, kinks_in, paces_of

# Where `ts` is traced a schedule is looked at over so many steps, and at most over so many.
_HORIZON, _FARTHEST = 2**14, 2**18
# So many of its kinks are crossed in a traced call at most.
_CROSSED = 64
# The longest step where there may be what was not looked at: a burst of five steps is seen.
_FEW = 2.0
# The longest step over a jump of a schedule's curvature.
_BENT = 1.0


class Paces(eqx.Module):
    """How long a solver's step may be, from each step on.

    - `first`: the step of the first of them; the last holds for all beyond.
    """

    first: Scalar
    longest: Float[Array, " k"]

    def __call__(self, s: Scalar) -> Scalar:
        """The longest step from s on."""
        at = jnp.maximum(s - self.first, 0.0)
        k, last = jnp.floor(at).astype(int), self.longest.size - 1
        ahead = self.longest[jnp.minimum(k + 1, last)] + 1.0 - (at - jnp.floor(at))
        return jnp.minimum(self.longest[jnp.minimum(k, last)], ahead)


class Plan(eqx.Module):
    """Where a flow's path is not smooth, and how long its solver's steps may be.

    - `kinks`: the steps that end where it is not, told and found.
    - `paces`: `None` where nothing bounds them.
    """

    kinks: tuple[int, ...] = eqx.field(static=True)
    paces: Paces | None


def plan_of(equation: FlowEquation, y: Augmented, s: Any, ts: Path) -> Plan:
    """What is known of a flow beforehand, from its schedules as functions of its counters.

    They are sampled where they are known, which they may be in a traced call, too. What is traced
    of them, or beyond the steps that were looked at, bounds the steps of the solver.

    **Arguments:**

    - `y`, `s`: a state of its path, and the step at which it is; for its counters.
    - `ts`: from where to where the plan is wanted.
    """
    model, layout = equation.model, equation.layout
    first, last, whole = 0, _HORIZON, is_concrete(ts)
    if whole:
        first = int(np.floor(ts[0]))
        # a flow looks ahead, and a kink is told from what follows it
        last = int(np.ceil(ts[-1])) + model.gradients + 2
        whole = last - first <= _FARTHEST
        last = min(last, first + _FARTHEST)
    counters = [y.memory[name][0] for name, c in zip(layout.names, layout.counts, strict=True) if c]
    # a traced counter, or step, is taken to be the step
    offsets = tuple(round(float(x) - float(s)) if is_concrete((x, s, ts)) else 0 for x in counters)
    course = course_of(model.tx.update, layout, y.theta, equation.opt_state0, offsets, first, last)
    found, bends = kinks_in(course.values, first, course.eps)
    longest = paces_of(course.values, first, sorted({*found, *model.kinks}), course.eps)
    for k in bends:  # as far as the differences reach over them
        longest[max(k - first - model.gradients, 0) : k - first + 1] = _BENT
    longest = coned(longest)
    lively = bool(found) or bool(np.any(np.isfinite(longest)))
    beyond = _FEW if course.unsure or (lively and not whole) else np.inf
    if not is_concrete(ts) and len(found) > _CROSSED:
        found, longest = [], np.minimum(longest, _FEW)
    if course.unsure:
        longest = np.minimum(longest, _FEW)
    kinks = tuple(sorted({*found, *model.kinks}))
    if not np.any(np.isfinite(longest)) and np.isinf(beyond):
        return Plan(kinks, None)
    # as many for some `ts`, so that they share a program
    size = 2 ** int(np.ceil(np.log2(longest.size + 1)))
    longest = np.pad(longest, (0, size - longest.size), constant_values=beyond)
    return Plan(kinks, Paces(jnp.asarray(first, ts.dtype), jnp.asarray(longest, ts.dtype)))
