"""What a method is asked, and what it answers."""

import abc
from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
from jaxtyping import Array, Float, PyTree

from .._equation import Augmented
from .._flow import InterpolatingFlow
from .._kernel import AbstractMarkovKernel
from .._model import AbstractModel
from .._second import has_forward
from .._types import Count, Flag, Path, Scalar


class Problem(eqx.Module):
    """An initial value problem, already checked and of one dtype.

    - `equation`: an `Equation`, or the `FlowEquation` of an interpolating flow.
    - `y0`, `g0`: state and gradient at `ts[0]`.
    - `ts`: where the path is wanted, increasing.
    - `keep`: `keep(s, y, moments)`, what is wanted there; a pytree of arrays. Without `moments`
        they are read off the states in `y`.
    - `valid`: where it is False nothing is to be computed.
    - `breakpoints`: steps at which the right-hand side jumps or has a kink in s: increasing, padded
        with infinity; of length 0 where the learning rate is a constant and nobody told of any.
    - `curved`: whether the gradient has derivatives itself; not asked for many parameters, where
        no method takes them.
    - `layout`: where each array of the parameters lies, if they are one array here.
    """

    equation: Any
    y0: Augmented
    g0: PyTree[Array]
    ts: Path
    keep: Callable[..., PyTree[Array]]
    valid: Flag
    breakpoints: Float[Array, " b"]
    curved: bool = eqx.field(static=True, default=True)
    layout: Any = None

    @property
    def parameters(self) -> int:
        """How many numbers move."""
        return sum(x.size for x in jax.tree.leaves(self.y0.theta))

    @property
    def has_forward(self) -> bool:
        """Whether the gradient can be differentiated in forward mode."""
        return has_forward(lambda x: self.equation.gradient(x, self.y0.fixed), self.y0.theta)


class Answer(eqx.Module):
    """What a method found.

    - `kept`: what `keep` returned, with a leading axis T; NaN past `s`.
    - `s`, `y`: how far it came, and the state there; a memory is left out whose kernel has none.
    """

    kept: PyTree[Array]
    s: Scalar
    y: Augmented
    result: Any
    stats: dict[str, Count | Scalar | Flag]


class AbstractMethod(eqx.Module):
    """How an equation is solved."""

    @property
    def told(self) -> tuple[float, ...]:
        """The steps of which the user says that the right-hand side jumps there, or has a kink."""
        return ()

    @abc.abstractmethod
    def solves(self, model: AbstractModel | InterpolatingFlow) -> bool:
        """Whether the equation of `model` is one for this method."""

    def prepare(self, ts: Any, state0: Any, dtype: Any) -> "AbstractMethod":
        """Itself, or one that knows what it must of the arguments before they are traced.

        **Raises:** `ValueError` if it cannot do with them.
        """
        del ts, state0, dtype
        return self

    @abc.abstractmethod
    def run(self, problem: Problem, adjoint: dfx.AbstractAdjoint | None) -> Answer:
        """Solves `problem`; a failure is a value of `Answer.result`, never raised."""


def constant(tree: PyTree[Any]) -> PyTree[Any]:
    """The same, without derivatives."""
    stop = lambda x: jax.lax.stop_gradient(x) if eqx.is_inexact_array(x) else x
    return jax.tree.map(stop, tree)


def is_markov(model: AbstractModel | InterpolatingFlow) -> bool:
    """Whether every kernel has a finite state space."""
    return all(isinstance(m.kernel, AbstractMarkovKernel) for m in model.memories().values())


def is_advanced(model: AbstractModel | InterpolatingFlow) -> bool:
    """Whether a memory is read ahead of s."""
    return any(m.ahead for m in model.memories().values())


def describe(model: AbstractModel | InterpolatingFlow) -> str:
    """What makes the equation hard, in words for a message."""
    words = []
    for name, m in model.memories().items():
        kernel = type(m.kernel).__name__
        if not isinstance(m.kernel, AbstractMarkovKernel):
            words.append(f"whose {name!r} has the kernel {kernel} without finitely many states")
        if m.ahead:
            words.append(f"which reads {name!r} at s + {m.ahead}")
    if model.singular_start:
        words.append("whose velocity is infinite at s = 0")
    return f"{type(model).__name__}, {' and '.join(words)}" if words else type(model).__name__
