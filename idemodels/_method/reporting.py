"""How a solver tells what its steps cost."""

import abc
from typing import Any, ClassVar

import diffrax as dfx
import equinox as eqx
from jaxtyping import Array, PyTree

from .._equation import Augmented, Equation, equation_of


class Reported(eqx.Module):
    """The error of a step, and what else a controller is told of it.

    A controller alone sees every step's error, that of a rejected one too; what else a solver
    knows of a rejected step is forgotten.

    - `gradients`: those that it took; 0 where they are counted otherwise.
    - `tangent`: the error of a tangent of the path, 1 where it is as large as allowed.
    """

    error: Augmented
    gradients: Any = 0
    tangent: Any = 0.0


class AbstractReporting(dfx.AbstractAdaptiveSolver):
    """A solver for equations of first order whose steps may differ in the gradients they take."""

    # how many `init` takes
    first_gradients: ClassVar[Any]

    @abc.abstractmethod
    def reporting(
        self, rtol: Any, atol: Any, origin: PyTree[Array] | None, short: float | None
    ) -> "AbstractReporting":
        """One whose errors are `Reported`, for a controller with these tolerances that counts.

        - `origin`: theta where the path began, by whose distance errors are measured; or `None`.
        - `short`: the length of the steps that are those of `KickDrift`; `None` has none.
        """


def first_order(terms: Any, solver: str) -> Equation:
    """The equation behind a solver's terms.

    **Raises:** `ValueError` if there is none, or one with inertia.
    """
    equation = equation_of(terms)
    if equation.model.inertial:
        raise ValueError(
            "Argument `solver` must be one for equations of second order, for "
            f"{type(equation.model).__name__}, but is {solver}. Use `idemodels.Markov()`, or a "
            "Runge-Kutta method such as `diffrax.Tsit5()`."
        )
    return equation
