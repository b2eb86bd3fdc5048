"""Whether an optimizer's step is one that a flow can follow: what its differences say."""

from math import comb

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PyTree

from .._equation import Augmented
from .._programs import program
from .._second import pushed
from .._types import Scalar
from .equation import FlowEquation

# The differences that are looked at, and above which part of a step a fifth of them says that the
# path is not smooth: for smooth optimizers it is below 1e-3, for those of signs .3 or more.
DIFFERENCES, ROUGH = 5, 0.05
# Where |mu - 1| of a multiplier of the step is larger than this the logarithm's series, which
# converges below 1, is of no use. At 1 itself stand memories of the last step alone, such as adan's
# gradient: they follow theta, and do no harm.
FAR = 1.05
_COMPARE = "Compare with `idemodels.run_discrete`."
# Steps of the power iteration, and over how many of the last the growth is taken.
ITERATIONS, _LAST = 16, 8
# The step from which on the memories of most optimizers are full.
SETTLED = 20


def fifth_difference(equation: FlowEquation, y: Augmented) -> tuple[Scalar, Scalar]:
    r"""$\max |\Delta^5 \theta| / 5$ and $\max |\Delta \theta|$ at a state, in the flow's strides.

    From the optimizer's own updates; takes 5 gradients, and the stride times as many.
    """
    q = equation.model.stride
    signs = [(-1.0) ** (DIFFERENCES - 1 - i) * comb(DIFFERENCES - 1, i) for i in range(DIFFERENCES)]
    weights = jnp.asarray(np.repeat(signs, q), jnp.result_type(*jax.tree.leaves(y.theta)))
    first = jnp.asarray(np.repeat([1.0] + [0.0] * (DIFFERENCES - 1), q), weights.dtype)

    def add(carry, given):
        y, totals = carry
        y, moved = equation.step(y)
        totals = tuple(
            jax.tree.map(lambda t, u, w=w: t + w * u, total, moved.theta)
            for w, total in zip(given, totals, strict=True)
        )
        return (y, totals), None

    zero = jax.tree.map(jnp.zeros_like, y.theta)
    (_, (fifth, one)), _ = jax.lax.scan(add, (equation.clamped(y), (zero, zero)), (weights, first))
    return _largest(fifth) / DIFFERENCES, _largest(one)


def farthest_multiplier(equation: FlowEquation, y: Augmented) -> Scalar:
    r"""An estimate of the largest $|\mu - 1|$ over the multipliers of q steps, at a state.

    By power iteration on the derivative of the step, less 1, in units of the state's sizes; takes
    `ITERATIONS` derivatives, each of which is some two gradients, times the stride.
    """
    sizes = jax.tree.map(lambda x: jnp.sqrt(jnp.mean(x * x)), y)
    sizes = jax.tree.map(lambda x: jnp.where(x > 0, x, 1.0), sizes)
    leaves, treedef = jax.tree.flatten(y)
    keys = jr.split(jr.key(0), len(leaves))
    noise = [jr.normal(key, x.shape, x.dtype) for key, x in zip(keys, leaves, strict=True)]
    y, q = equation.clamped(y), equation.model.stride

    def moved(v):
        tangent = jax.tree.map(jnp.multiply, v, sizes)
        out = pushed(lambda y: _steps(equation, y, q), y, tangent)
        return jax.tree.map(lambda a, b, size: (a - b) / size, out, tangent, sizes)

    def iterate(v, _):
        v = moved(v)
        size = jnp.sqrt(sum(jnp.vdot(x, x) for x in jax.tree.leaves(v)))
        return jax.tree.map(lambda x: x / jnp.where(size > 0, size, 1.0), v), size

    _, growth = jax.lax.scan(iterate, jax.tree.unflatten(treedef, noise), length=ITERATIONS)
    late = growth[-_LAST:]
    mean = jnp.exp(jnp.mean(jnp.log(jnp.where(late > 0, late, 1.0))))
    return jnp.where(jnp.all(late > 0), mean, 0.0)


@program
def looks(equation: FlowEquation, states: Augmented) -> tuple[Array, Array, Array]:
    """At states with a leading axis: the fifth difference, the first, the farthest multiplier."""

    def at(y):
        return *fifth_difference(equation, y), farthest_multiplier(equation, y)

    return jax.lax.map(at, states)


def roughness_of(fifth: Array, first: Array) -> float:
    """The largest fifth difference of some looks over their largest step."""
    most = float(jnp.max(first))
    return float(jnp.max(fifth)) / most if most > 0 else 0.0


def gradients_of_looks(equation: FlowEquation, count: int) -> int:
    """How many gradients so many looks take; a derivative of one counts as two."""
    return count * equation.model.stride * (DIFFERENCES + 2 * ITERATIONS)


def distrust(roughness: float, spread: float, stride: int, rough: str | None = None) -> str | None:
    """Why a flow cannot be trusted, in words; `None` where nothing speaks against it.

    `rough`: what of the update is known not to be smooth.
    """
    if rough is not None:
        return f"No flow follows this optimizer where that matters: {rough}. {_COMPARE}"
    if not roughness <= ROUGH:  # nor where it is NaN
        return (
            f"The optimizer's steps are not smooth: a fifth of their fifth difference is "
            f"{roughness:.2g} of a step, where {ROUGH:g} is much. {_COMPARE}"
        )
    if not spread <= FAR:
        hint = "Lower the learning rate, or pass `stride=2`." if stride == 1 else ""
        return (
            f"A multiplier of the optimizer's step is about {spread:.2g} away from 1, where the "
            f"flow's series needs less than 1: the path may swing where the flow does not. {hint}"
        ).rstrip()
    return None


def _steps(equation: FlowEquation, y: Augmented, count: int) -> Augmented:
    return jax.lax.scan(lambda y, _: (equation.step(y)[0], None), y, length=count)[0]


def _largest(tree: PyTree[Array]) -> Scalar:
    return jnp.max(jnp.stack([jnp.max(jnp.abs(x), initial=0) for x in jax.tree.leaves(tree)]))
