"""Model and objective together: the right-hand side, and the door to diffrax."""

import dataclasses
from typing import Any, TypeVar

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ._barrier import differentiated_apart
from ._checks import is_concrete
from ._kernel import AbstractMarkovKernel
from ._model import AbstractModel
from ._parameters import as_parameters
from ._results import integrated_rate
from ._types import Moments, Objective, Path, Scalar, Theta

_T = TypeVar("_T")


class Augmented(eqx.Module):
    """The state of the augmented equation: parameters and memories.

    - `theta`: the floating arrays of the parameters, `None` elsewhere.
    - `memory`: dict from name to states, leaves `(n, *shape)`.
    - `fixed`: everything else in the parameters; not integrated.
    - `velocity`: of an inertial model, like `theta`; else `None`.
    """

    theta: PyTree[Array]
    memory: dict[str, PyTree[Array]]
    fixed: "Fixed" = eqx.field(static=True)
    velocity: PyTree[Array] | None = None


class Fixed:
    """Leaves that do not move, as a part of the state's type: hashable, compared by value."""

    def __init__(self, tree: PyTree[Any]):
        if not is_concrete(tree):
            raise ValueError(
                "Argument `theta0` has traced arrays that are not floating. Close over them, or "
                "call `solve`, which takes them."
            )
        as_host = lambda x: np.asarray(x) if eqx.is_array(x) else x
        self.tree = jax.tree.map(as_host, tree)

    def __hash__(self) -> int:
        return hash(jax.tree.structure(self.tree))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fixed) and bool(eqx.tree_equal(self.tree, other.tree))


class Equation(eqx.Module):
    """The equation of a model on an objective, as an ODE in the optimizer steps s. (E1), (E5)

    The door to diffrax, for everything that [`idemodels.solve`][] does not offer.

    !!! Example

        ```python
        equation = ide.Equation(ide.Adam(0.1), ide.Quadratic())
        solution = diffrax.diffeqsolve(
            equation.term(), diffrax.Tsit5(), 0.0, 60.0, 0.1, equation.init(jnp.ones(1)),
            stepsize_controller=diffrax.PIDController(rtol=1e-8, atol=1e-8),
        )
        theta, moments = equation.unpack(60.0, jax.tree.map(lambda y: y[-1], solution.ys))
        ```

    A causal reading starts with an infinite velocity, which `solve` takes care of and a plain call
    of diffrax does not.

    **Arguments:**

    - `model`: an optimizer, such as [`idemodels.Adam`][].
    - `objective`: `objective(theta)`, or `objective(theta, args)` when `args` is given.
    - `args`: data for the objective, any pytree.
    """

    model: AbstractModel
    objective: Objective
    args: PyTree[Any] = None

    def term(self) -> dfx.ODETerm:
        """The right-hand side as a `diffrax.ODETerm`."""
        return dfx.ODETerm(self)  # pyright: ignore[reportArgumentType]

    def init(self, theta0: Theta) -> Augmented:
        """The state at s = 0: `theta0`, in the type that `solve` takes it in, and empty memories.

        **Raises:** `ValueError` if a kernel has no finite state space, a memory is read ahead, or
        `theta0` is none for `solve`.
        """
        check_markov(self.model)
        return self.start(eqx.combine(*as_parameters(theta0)))

    def start(self, theta0: Theta) -> Augmented:
        """As `init`; a kernel without a finite state space has no states here."""
        theta, rest = eqx.partition(theta0, eqx.is_inexact_array)
        # dtypes and shapes only: nothing is evaluated
        g = jax.tree.map(jnp.zeros_like, theta)
        memory = {name: memory.markov.init(memory.of(g)) for name, memory in self._markov().items()}
        return Augmented(theta, memory, Fixed(rest), self.model.initial_velocity(theta))

    def unpack(self, s: Any, y: Augmented) -> tuple[Theta, Moments]:
        """`(theta, moments)` of a state; the raw moments, without bias correction."""
        del s  # no model of today needs it
        return eqx.combine(y.theta, y.fixed.tree), self.read(y.memory)

    def read(self, memory: dict[str, PyTree[Array]]) -> Moments:
        """The raw moments, of the memories' states."""
        return {name: m.markov.read(memory[name]) for name, m in self._markov().items()}

    def times(self, ts: Path, edges: Any) -> Path:
        """The papers' time t at `ts`; `edges` is where the learning rate is not smooth."""
        return integrated_rate(self.model.alpha, ts, edges if self.model.scheduled else None)

    def loss(self, theta: Theta) -> Scalar:
        """The objective, without `l2`."""
        return self.objective(theta) if self.args is None else self.objective(theta, self.args)

    def with_closure(self, y: Augmented) -> "Equation":
        """The same, with the arrays that the objective closes over as leaves of their own.

        A rule of differentiation, and a loop, see leaves alone.
        """
        theta = eqx.combine(y.theta, y.fixed.tree)
        given = (theta,) if self.args is None else (theta, self.args)
        objective = eqx.filter_closure_convert(self.objective, *given)
        return dataclasses.replace(self, objective=objective)

    def gradient(self, theta: PyTree[Array], fixed: Fixed) -> PyTree[Array]:
        r"""$\nabla L + (\lambda/2)\,\theta$, transformed, at the floating arrays `theta`."""
        loss = lambda theta: self.loss(eqx.combine(theta, fixed.tree))
        g = differentiated_apart(jax.grad(loss), theta)
        l2 = lambda g, theta: g + (0.5 * cast(self.model.l2, theta.dtype) * theta).astype(g.dtype)
        return cast(self.model, dtype_of(theta)).transform(jax.tree.map(l2, g, theta))

    def fraction(
        self, s: Any, y: Augmented, g: PyTree[Array]
    ) -> tuple[PyTree[Array], PyTree[Array]]:
        """Numerator and denominator of the direction, given the gradient.

        A memory that is read ahead is foretold as if the gradient stayed as it is: the closure.
        """
        dtype = dtype_of(y.theta)
        moments = {}
        for name, m in cast(self.model, dtype).memories().items():
            state = y.memory[name]
            if m.ahead:
                held = jax.tree.map(lambda h: h[None], m.of(g))
                state = m.markov.propagate(state, jnp.asarray(m.ahead, dtype), held)
            moments[name] = m.markov.read(state)
        return fraction_of(self.model, s, y.theta, g, moments)

    def pull(self, s: Any, theta: PyTree[Array], direction: PyTree[Array]) -> PyTree[Array]:
        r"""$-\alpha(s)\,(\mathrm{direction} + w\,\theta)$: the right-hand side of (E1) and (E6)."""
        dtype = dtype_of(theta)
        model = cast(self.model, dtype)
        alpha = model.alpha(jnp.asarray(s, dtype))
        return jax.tree.map(lambda d, x: -alpha * (d + model.weight_decay * x), direction, theta)

    def rates(self, s: Any, y: Augmented, g: PyTree[Array], direction: PyTree[Array]) -> Augmented:
        r"""The derivatives of parameters and memories, given gradient and direction. (E1), (E6)"""
        pull = self.pull(s, y.theta, direction)
        memory = {
            name: m.markov.derivative(y.memory[name], m.of(g))
            for name, m in cast(self.model, dtype_of(y.theta)).memories().items()
        }
        if y.velocity is None:
            return Augmented(pull, memory, y.fixed)
        acceleration = jax.tree.map(lambda p, v: 2.0 * (p - v), pull, y.velocity)  # (E6)
        return Augmented(y.velocity, memory, y.fixed, acceleration)

    def __call__(self, s: Any, y: Augmented, args: Any) -> Augmented:
        """The vector field, as diffrax calls it; `args` is not used."""
        g = self.gradient(y.theta, y.fixed)
        return self.rates(s, y, g, quotient(self.fraction(s, y, g)))

    def _markov(self) -> dict[str, Any]:
        """The memories that have states."""
        memories = self.model.memories().items()
        return {name: m for name, m in memories if isinstance(m.kernel, AbstractMarkovKernel)}


def check_markov(model: AbstractModel) -> None:
    """Raises if the equation of `model` is no ODE."""
    for name, memory in model.memories().items():
        if not isinstance(memory.kernel, AbstractMarkovKernel):
            raise ValueError(
                f"Argument `model` must have kernels with finitely many states, but {name!r} has "
                f"{type(memory.kernel).__name__}. Use the method `idemodels.History()`, or replace "
                "the kernel by `idemodels.fit_exponentials(kernel, horizon, tol)`."
            )
        if memory.ahead:
            raise ValueError(
                f"Argument `model` must read its memories at s, but reads {name!r} at s + "
                f"{memory.ahead}, which no ODE does. Use the method `idemodels.FixedPoint()`."
            )


def fraction_of(
    model: AbstractModel, s: Any, theta: PyTree[Array], g: PyTree[Array], moments: Moments
) -> tuple[PyTree[Array], PyTree[Array]]:
    """Numerator and denominator of the direction, given the gradient and the raw moments.

    A memory that is read ahead is given at s + 1.
    """
    dtype = dtype_of(theta)
    model, s = cast(model, dtype), jnp.asarray(s, dtype)
    read = {name: m.as_read(s, moments[name], g) for name, m in model.memories().items()}
    return model.fraction(s, theta, g, read)


def equation_of(terms: Any) -> Equation:
    """The equation behind a solver's terms: `diffeqsolve` wraps them to integrate backwards too.

    **Raises:** `ValueError` if there is none.
    """
    while not isinstance(terms, dfx.ODETerm):
        if not hasattr(terms, "term"):
            raise ValueError(f"Argument `terms` must be a `diffrax.ODETerm`, but is {terms!r}.")
        terms = terms.term
    equation = terms.vector_field
    if not isinstance(equation, Equation):
        raise ValueError(
            "Argument `terms` must be the term of an `idemodels.Equation`, `equation.term()`, but "
            f"has the vector field {equation!r}."
        )
    return equation


def quotient(fraction: tuple[PyTree[Array], PyTree[Array]]) -> PyTree[Array]:
    """Numerator over denominator, leaf by leaf."""
    return jax.tree.map(jnp.divide, *fraction)


def dtype_of(theta: PyTree[Array]) -> Any:
    """The one floating type of the parameters: the widest among them."""
    return jnp.result_type(*[leaf.dtype for leaf in jax.tree.leaves(theta)])


def cast(tree: _T, dtype: Any) -> _T:
    """The floating arrays of a model as `dtype`, strongly typed."""
    convert = lambda x: jnp.asarray(x, dtype) if eqx.is_inexact_array(x) else x
    return jax.tree.map(convert, tree)
