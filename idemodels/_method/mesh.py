"""Where the elements of a collocation lie: denser where the closure's path turns faster."""

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import Path, Scalar
from .base import Problem, constant
from .clock import pace
from .control import Guarded
from .norms import group_norm, largest, units
from .rodas5p import Rodas5P
from .unchecked import diffeqsolve

# The steps of the closure's solve are counted, no more: at a tolerance where they are dozens.
_RTOL, _ATOL, _MAX_STEPS = 1e-6, 1e-9, 4096
# Shorter steps count by their length.
_SHORTEST = 0.01
# The part of the elements that is spread evenly, in case that the closure knows too little.
_EVEN = 0.1


class Density(eqx.Module):
    """How many steps a solver took from the start to each of `ts`."""

    ts: Float[Array, " k"]
    count: Float[Array, " k"]

    def spread(self, start: Scalar, end: Scalar, elements: int, breaks: Float[Array, " b"]) -> Path:
        """The ends of elements over an interval that hold equally many steps each.

        They also end at `breaks`, which are fewer: increasing, strictly inside the interval where
        finite, padded with infinity.
        """
        inside = jnp.clip(self.ts, start, end)
        count = jnp.interp(inside, self.ts, self.count)
        steps = (count - count[0]) / jnp.maximum(count[-1] - count[0], 1e-3)
        even = (inside - start) / (end - start)
        share = (1.0 - _EVEN) * steps + _EVEN * even
        found = jnp.isfinite(breaks)
        many = jnp.sum(found)
        at = jnp.where(found, jnp.interp(breaks, inside, share), 1.0)
        # at least one element between two of them
        index = jnp.round(at * (elements - many - 1).astype(at.dtype)).astype(int)
        index = jnp.where(found, index + 1 + jnp.arange(breaks.size), elements)
        ends = jnp.concatenate([jnp.zeros(1, int), index, jnp.array([elements])]).astype(at.dtype)
        shares = jnp.concatenate([jnp.zeros(1, at.dtype), at, jnp.ones(1, at.dtype)])
        ts = jnp.interp(jnp.arange(elements + 1).astype(at.dtype), ends, shares)
        ts = jnp.interp(ts, share, inside)
        ts = ts.at[jnp.where(found, index, elements + 1)].set(breaks, mode="drop")
        return ts.at[0].set(start).at[-1].set(end)


def closure_density(problem: Problem, end: Scalar, dense: bool) -> Density:
    """The steps of the closure, by diffrax, up to `end`; it carries no derivative.

    Where that solve fails, the rest of the way counts as one step.
    """
    problem = constant(problem)
    start = problem.ts[0]
    equation = problem.equation
    unit = units(problem.y0, problem.g0, equation.model.memories(), _ATOL, dense)
    solution = diffeqsolve(
        equation.term(),
        Rodas5P() if dense else dfx.Tsit5(),
        start,
        end,
        jnp.minimum(0.1, end - start),
        problem.y0,
        saveat=dfx.SaveAt(steps=True, fn=lambda s, y, args: s),
        stepsize_controller=Guarded(
            rtol=_RTOL,
            atol=_ATOL,
            unit=unit,
            limit=1e8 * (1.0 + largest(problem.y0.theta)),
            end=end,
            patience=None,
            norm=group_norm,
            negative=lambda y: jnp.zeros((), bool),
            expected=pace,
            origin=problem.y0.theta,
        ),
        adjoint=dfx.ForwardMode(),
        max_steps=_MAX_STEPS,
    )
    assert solution.ts is not None
    ts = jnp.concatenate([start[None], jnp.where(jnp.isfinite(solution.ts), solution.ts, end)])
    ts = jnp.append(ts, end)
    # what is shorter has no length of the path's own: chatter of a converged tail
    shortest = jnp.minimum(_SHORTEST, 1e-4 * (end - start))
    steps = jnp.minimum(jnp.diff(ts) / shortest, 1.0)
    return Density(ts, jnp.concatenate([jnp.zeros(1, ts.dtype), jnp.cumsum(steps)]))
