"""The functions that fall along a path: which one a model has, and what is proved of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._equation import fraction_of, quotient
from .._kernel import Exponential
from .._model import AbstractModel, AdaGrad, Adam, MemoryModel, RMSProp
from .._types import Moments, Scalar
from .hold import (
    Hypothesis,
    constant_rate,
    memory_ratio,
    no_weight_decay,
    rate_does_not_rise,
    reads_at_s,
)

_PAPER = "Heredia (2024), arXiv:2411.09734"


class Law(NamedTuple):
    """What is known of a model's V.

    - `extra`: V - L, a function of `(s, theta, g, moments)` and the model, traceable.
    - `slack`: its bound of V', of the same arguments; `None` where that is 0.
    - `theorem`: with its source; empty if there is none.
    - `constant`: whether V stays, rather than falls.
    - `assumes`: the hypotheses, of the model and its learning rates along the path.
    - `notes`: what the theorem does not say.
    """

    extra: Callable[..., Scalar]
    slack: Callable[..., Scalar] | None
    theorem: str
    constant: bool
    assumes: Callable[[Any, np.ndarray], list[Hypothesis]]
    notes: tuple[str, ...]


def law_of(model: AbstractModel) -> Law:
    """The one for a model."""
    if isinstance(model, Adam):
        return Law(_of_adam, _slack_of_adam, _ADAM, False, _adam_assumes, (_UNCORRECTED, _EPS))
    if isinstance(model, AdaGrad) and model.reading == "causal" and constant_rate(model).holds:
        return Law(_of_adagrad, None, _INVARIANT, True, _invariant_assumes, (_EPS,))
    if isinstance(model, RMSProp | AdaGrad):
        return Law(_nothing, None, _DESCENT, False, _descent_assumes, (_EPS,))
    if isinstance(model, MemoryModel):
        name = first_moment(model)
        if name is not None:
            return Law(_of_memory, None, "", False, _none, (_OWN.format(name=name),))
    return Law(_nothing, None, "", False, _none, (_UNKNOWN.format(name=type(model).__name__),))


_ADAM = f"V falls where r2 <= 4 r1 (E10), after {_PAPER}, with the bias correction"
_DESCENT = f"L falls, dL/ds = -alpha sum g^2 / (sqrt(v) + eps), {_PAPER}"
_INVARIANT = "L + 2 alpha sum (sqrt(G) - eps ln(1 + sqrt(G) / eps)) is constant, since G' = g^2"
_UNCORRECTED = (
    "The source's V, without bias correction, is that of the equation without it, and may rise "
    "along this one; V here has it."
)
_EPS = (
    "Velocities are bounded through eps > 0 alone: the source bounds v away from 0, which a run "
    "that converges does not."
)
_OWN = (
    "No theorem applies to a direction of one's own: V is the loss and the energy (alpha c / "
    "(2 r)) sum m d of its memory {name!r}, and whether it falls is only measured."
)
_UNKNOWN = "No theorem applies to {name}: V is the loss, and whether it falls is only measured."


def first_moment(model: AbstractModel) -> str | None:
    """The first memory of g itself under an exponential kernel."""
    x = jnp.array([0.5, -2.0])
    for name, memory in model.memories().items():
        if isinstance(memory.kernel, Exponential) and bool(jnp.all(memory.feature(x) == x)):
            return name
    return None


def potential(model: AbstractModel, theta: PyTree[Array]) -> Scalar:
    """(l2 / 4) |theta|^2, whose gradient the papers add to that of L."""
    return _sum(jax.tree.map(lambda x: 0.25 * model.l2 * x * x, theta))


def _nothing(model, s, theta, g, moments):
    return jnp.zeros_like(s)


def _of_adam(model: Any, s, theta, g, moments):
    alpha, c1 = model.alpha(s), model._b1.correction(s)
    return 0.5 * alpha * c1 / model._b1.rate * _kinetic(model, s, theta, g, moments)  # (E10)


def _slack_of_adam(model: Any, s, theta, g, moments):
    """The bound of V' in (E10), with what a learning rate that changes adds."""
    alpha, change = jax.jvp(model.alpha, (s,), (jnp.ones_like(s),))
    bracket = alpha * bracket_of(model, s)
    bracket = bracket - 0.5 * change * model._b1.correction(s) / model._b1.rate
    return -bracket * _kinetic(model, s, theta, g, moments)


def bracket_of(model: Any, s: Scalar) -> Scalar:
    """c1 + l1 (1 - c1) / (2 r1) - c1 rho2 / (4 r1), rho2 = r2 + l2 (1 - c2) / c2. (E10)"""
    b1, b2 = model._b1, model._b2
    started = s > 0
    s = jnp.where(started, s, 1.0)
    c1, c2 = b1.correction(s), b2.correction(s)
    left = lambda b, c: -b.log * (1.0 - c)
    rho = c1 * (b2.rate + left(b2, c2) / c2)
    bracket = c1 + 0.5 * left(b1, c1) / b1.rate - 0.25 * rho / b1.rate
    return jnp.where(started, bracket, 0.25 * -b1.log / b1.rate)  # c1 rho2 -> l1


def _kinetic(model: Any, s, theta, g, moments: Moments):
    above, below = fraction_of(model, s, theta, g, moments)
    return _sum(jax.tree.map(lambda mh, d: mh * mh / d, above, below))


def _of_adagrad(model: Any, s, theta, g, moments: Moments):
    def leaf(G):
        positive = G > 0
        root = jnp.where(positive, jnp.sqrt(jnp.where(positive, G, 1.0)), 0.0)
        return root - model.eps * jnp.log1p(root / model.eps)

    return 2.0 * model.alpha(s) * _sum(jax.tree.map(leaf, moments["G"]))


def _of_memory(model: Any, s, theta, g, moments: Moments):
    name = _name_of(model)
    memory = model.memories()[name]
    whole = memory.kernel.integral(s) if memory.debias else jnp.ones_like(s)
    m = memory.as_read(s, moments[name], g)
    d = quotient(fraction_of(model, s, theta, g, moments))
    product = _sum(jax.tree.map(jnp.multiply, m, d))
    return 0.5 * model.alpha(s) * whole / jnp.asarray(memory.kernel.rate, s.dtype) * product


def _name_of(model: AbstractModel) -> str:
    with jax.ensure_compile_time_eval():
        name = first_moment(model)
    assert name is not None
    return name


def _adam_assumes(model, alphas):
    return [
        memory_ratio(model),
        rate_does_not_rise(alphas),
        no_weight_decay(model),
        reads_at_s(model),
    ]


def _descent_assumes(model, alphas):
    return [no_weight_decay(model)]


def _invariant_assumes(model, alphas):
    return [constant_rate(model), no_weight_decay(model), reads_at_s(model)]


def _none(model, alphas):
    return [Hypothesis("there is a theorem", False, type(model).__name__)]


def _sum(tree: PyTree[Array]) -> Any:
    return sum(jnp.sum(x) for x in jax.tree.leaves(tree))
