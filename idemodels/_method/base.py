"""What a method is asked, and what it answers."""

import abc
from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
from jaxtyping import Array, PyTree

from .._equation import Augmented, Equation
from .._types import Count, Flag, Path, Scalar


class Problem(eqx.Module):
    """An initial value problem, already checked and of one dtype.

    - `y0`, `g0`: state and gradient at `ts[0]`.
    - `ts`: where the path is wanted, increasing.
    - `keep`: `keep(s, y)`, what is wanted there; a pytree of arrays.
    - `valid`: where it is False nothing is to be computed.
    """

    equation: Equation
    y0: Augmented
    g0: PyTree[Array]
    ts: Path
    keep: Callable[[Any, Augmented], PyTree[Array]]
    valid: Flag

    @property
    def parameters(self) -> int:
        """How many numbers move."""
        return sum(x.size for x in jax.tree.leaves(self.y0.theta))


class Answer(eqx.Module):
    """What a method found.

    - `kept`: what `keep` returned, with a leading axis T; NaN past `s`.
    - `s`, `y`: how far it came, and the state there.
    """

    kept: PyTree[Array]
    s: Scalar
    y: Augmented
    result: Any
    stats: dict[str, Count | Scalar]


class AbstractMethod(eqx.Module):
    """How an equation is solved."""

    @abc.abstractmethod
    def run(self, problem: Problem, adjoint: dfx.AbstractAdjoint) -> Answer:
        """Solves `problem`; a failure is a value of `Answer.result`, never raised."""
