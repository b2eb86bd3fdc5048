"""What an optimizer is: memories of the gradient, and a direction computed from them. (E1)"""

import abc
import functools
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from .._checks import as_hyperparameter, check_finite, check_positive, is_concrete, is_positive
from .._hashed import Hashed
from .._kernel import Memory
from .._types import Flag, Moments, Scalar, Theta

_T = TypeVar("_T")
# What JAX raises where Python asks for a traced number.
_NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
# The same, of an index that is not an integer.
_NO_INDEX = "scalar index"
_FLOAT_INDEX = "Indexer must have integer or boolean type"


class AbstractModel(Hashed):
    r"""A first-order model of an optimizer, in optimizer steps s. (E1)

    $$\theta' = -\alpha(s)\,(\mathrm{direction}(s, \theta, g, \mathrm{moments}) + w\,\theta)$$

    with $g = \nabla L(\theta) + (\lambda/2)\,\theta$, $\lambda$ = `l2` and $w$ = `weight_decay`.
    """

    learning_rate: eqx.AbstractVar[Any]
    l2: eqx.AbstractVar[Any]
    weight_decay: eqx.AbstractVar[Any]

    @property
    @abc.abstractmethod
    def singular_start(self) -> bool:
        """Whether the velocity grows like 1/sqrt(s) at the start."""

    @property
    def rough_start(self) -> bool:
        r"""Whether the path is smooth in $\sqrt s$ rather than in s at the start."""
        return self.singular_start

    @property
    def inertial(self) -> bool:
        r"""Whether the velocity is a state of its own, as in (E6): $\theta''/2 + \theta' = ...$"""
        return False

    @property
    def pointwise(self) -> bool:
        """Whether the direction of a parameter is a function of its own gradient and moments alone.

        Not of theta, nor of other parameters, as in a trust ratio.
        """
        return True

    @property
    def is_elementwise(self) -> bool:
        """Whether features and direction are of single numbers, whatever arrays these lie in.

        A class says so itself: what it passes on may do something else.
        """
        return vars(type(self)).get("elementwise", False)

    def swinging(self) -> tuple[str, Any] | None:
        r"""The memory m of g through which theta swings, $\theta' = -\beta m$, and its rate r.

        For theta in a bowl of constant curvature $\kappa$, a distance x from its bottom, the energy
        $\kappa x^2 + (\beta/r)\, m^2$ does not grow while $\beta' \le 2 r \beta$: the rate is 0
        where that is not sure. `None` if there is no such memory.
        """
        return None

    def initial_velocity(self, theta: Theta) -> PyTree[Array] | None:
        r"""$\theta'$ at s = 0 of an inertial model, per step; `None` of any other."""
        del theta
        return None

    @property
    def nonnegative(self) -> tuple[str, ...]:
        """Memories that may fall below zero, where they are read as zero: to be reported."""
        return ()

    def moment_stays_positive(self, least: Any, most: Any) -> Any:
        """Whether squares of a gradient between these surely keep `nonnegative` memories so."""
        del most  # nothing is known
        return jnp.zeros_like(least, bool)

    def transform(self, g: PyTree[Array]) -> PyTree[Array]:
        """What is done to the whole gradient before anything sees it; nothing, usually."""
        return g

    @abc.abstractmethod
    def memories(self) -> dict[str, Memory]:
        """What is remembered, by name."""

    @abc.abstractmethod
    def fraction(
        self, s: Scalar, theta: Theta, g: PyTree[Array], moments: Moments
    ) -> tuple[PyTree[Array], PyTree[Array]]:
        """Numerator and denominator of the direction, pytrees like `g`.

        Apart, because both may be tiny: an implicit method needs the equation
        `denominator * direction = numerator`, which stays smooth where the quotient does not.
        """

    def direction(
        self, s: Scalar, theta: Theta, g: PyTree[Array], moments: Moments
    ) -> PyTree[Array]:
        """The update before learning rate and weight decay; a pytree like `g`."""
        return jax.tree.map(jnp.divide, *self.fraction(s, theta, g, moments))

    @abc.abstractmethod
    def scale_by(self) -> optax.GradientTransformation:
        """The discrete twin of the direction alone."""

    @abc.abstractmethod
    def valid(self) -> Flag:
        """Whether every hyperparameter lies where the constructor wants it; may be traced."""

    def alpha(self, s: Scalar) -> Scalar:
        """The learning rate at step `s`, which need not be an integer."""
        rate = self.learning_rate
        if not callable(rate):
            return jnp.asarray(rate, jnp.result_type(s))
        return rate_at(rate, s)

    @property
    def scheduled(self) -> bool:
        """Whether the learning rate is a function of s."""
        return callable(self.learning_rate)

    @property
    def explicit(self) -> bool:
        """Whether the velocity may depend on s in any way, however little the gradient changes."""
        return self.scheduled or not self.pointwise

    def optax(self, *, unscaled_decay: bool = False) -> optax.GradientTransformation:
        r"""The discrete twin: a transformation to be used as any of optax's.

        **Arguments:**

        - `unscaled_decay`: `False` for $\theta - \alpha\,(\mathrm{direction} + w\,\theta)$, as
            `optax.adamw` has it; `True` for $(1 - w)\,\theta - \alpha\,\mathrm{direction}$, as the
            program of arXiv:2411.09734 does. At a constant learning rate that is the former with
            $w/\alpha$ for w, of which the equation is known too.
        """
        model = _as_floats(self)
        rate = model.learning_rate
        if callable(rate):
            rate = functools.partial(_traceable, rate)
        parts = [model.scale_by(), optax.scale_by_learning_rate(rate)]
        # left out where they do nothing, since they make `update` ask for the parameters
        if not _is_zero(self.weight_decay):
            place, sign = (2, -1.0) if unscaled_decay else (1, 1.0)
            parts.insert(place, optax.add_decayed_weights(sign * model.weight_decay))
        if not _is_zero(self.l2):
            parts.insert(0, optax.add_decayed_weights(0.5 * model.l2))
        return optax.chain(*parts)


def as_learning_rate(x: Any) -> Any:
    """A positive scalar as an array, or a schedule as it is."""
    if callable(x):
        return x
    value = as_hyperparameter(x, "learning_rate")
    check_positive(value, "learning_rate")
    return value


def rate_at(rate: Any, s: Scalar) -> Scalar:
    """A learning rate that is a function of the step, at step `s`, in its type.

    **Raises:** `ValueError` if JAX cannot trace it.
    """
    # optax mixes types in its schedules, also where the user wants no promotion
    with jax.numpy_dtype_promotion("standard"):
        value = _traceable(rate, s)
        if value is None or jnp.shape(value) != ():
            found = "None" if value is None else f"an array of shape {jnp.shape(value)}"
            raise ValueError(
                "Argument `learning_rate` must be a function that returns a scalar, but returns "
                f"{found}."
            )
        return jnp.asarray(value, jnp.result_type(s))


def _traceable(rate: Any, step: Any) -> Any:
    """`rate(step)`, with an error in words where it asks for the value of the step."""
    try:
        return rate(step)
    except (*_NEEDS_VALUES, TypeError) as e:
        if _FLOAT_INDEX in str(e):
            raise ValueError(
                "Argument `learning_rate` must be a function of a floating step, but has it as an "
                "index. Write `rates[step.astype(int)]` for `rates[step]`."
            ) from e
        if not isinstance(e, _NEEDS_VALUES) and _NO_INDEX not in str(e):
            raise
        raise ValueError(
            "Argument `learning_rate` must be a function that JAX can trace, but needs the value "
            f"of the step: {str(e).splitlines()[0].rstrip('.')}. Write `jnp.where(step < 10, a, b)`"
            " for `if`, and `jnp.asarray(rates)[step.astype(int)]` for a list."
        ) from e


def as_positive(x: Any, name: str) -> Any:
    """A positive scalar as an array."""
    value = as_hyperparameter(x, name)
    check_positive(value, name)
    return value


def as_finite(x: Any, name: str) -> Any:
    """A finite scalar as an array."""
    value = as_hyperparameter(x, name)
    check_finite(value, name)
    return value


def valid_common(model: AbstractModel) -> Any:
    """The flag for what all models share: learning rate, `l2`, `weight_decay`."""
    finite = jnp.isfinite(model.l2) & jnp.isfinite(model.weight_decay)
    rate = model.learning_rate
    return finite if callable(rate) else finite & is_positive(rate)


def safe_sqrt(x: Array) -> Array:
    """The square root; 0 where `x <= 0`, with derivative 0 there instead of NaN."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def square(g: Array) -> Array:
    """$g^2$, the feature behind every second moment."""
    return g * g


def identity(g: Array) -> Array:
    """$g$, the feature behind the first moment."""
    return g


def _is_zero(x: Any) -> bool:
    return is_concrete(x) and bool(x == 0)


def _as_floats(model: _T) -> _T:
    """Known hyperparameters as Python floats, so that optax's arithmetic follows the parameters."""
    convert = lambda x: float(x) if isinstance(x, np.ndarray) and x.ndim == 0 else x
    return jax.tree.map(convert, model)
