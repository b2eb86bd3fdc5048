"""A learning rate that changes, without a new compilation for each of its values."""

from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._checks import as_hyperparameter, near
from .._lost import without_derivative

# How near to a breakpoint the rate is looked at, and by what part of itself it must differ there to
# jump.
_BESIDE, _JUMP = 1e-5, 1e-2


class Schedule(eqx.Module):
    """A learning-rate schedule whose parameters are arrays: `function(s, **parameters)`.

    Any optax schedule is a learning rate as it is, but each new one compiles anew, since its
    numbers are Python's. Here they are leaves: traced, swept and differentiated like any other
    hyperparameter. It is an optax schedule itself.

    !!! Example

        ```python
        def warm_up(s, peak, steps):
            return peak * jnp.minimum(s / steps, 1.0)

        model = ide.Adam(ide.Schedule(warm_up, peak=0.01, steps=100.0))
        ```

    **Arguments:**

    - `function`: takes `s`, the optimizer step, as a float that need not be an integer, and the
        parameters by name; returns the learning rate. Name it once, at the top of a file: an equal
        lambda made twice compiles twice.
    - `breakpoints`: steps at which the learning rate jumps or has a kink: numbers, or names of
        parameters. The solver steps to each. They need not be told where `ts` and the parameters
        are known numbers, since [`idemodels.solve`][] looks for them then.
    - `parameters`: scalars. The derivative in a parameter that only says where the rate jumps is 0,
        as JAX has it of any comparison; named in `breakpoints` it is NaN instead.

    **Raises:** `ValueError` if a parameter is not a scalar, or a breakpoint neither a number nor
    the name of a parameter.
    """

    function: Callable[..., Any] = eqx.field(static=True)
    parameters: dict[str, Any]
    breakpoints: tuple[float | str, ...] = eqx.field(static=True)

    def __init__(
        self,
        function: Callable[..., Any],
        /,
        *,
        breakpoints: Any = (),
        **parameters: Any,
    ):
        if not callable(function):
            raise ValueError(f"Argument `function` must be callable, but is {function!r}.")
        self.function = function
        self.parameters = {k: as_hyperparameter(v, k) for k, v in parameters.items()}
        self.breakpoints = as_breakpoints(breakpoints, self.parameters)

    def edges(self) -> list[Any]:
        """The breakpoints as numbers, which are traced where a parameter is."""
        return [self.parameters[b] if isinstance(b, str) else b for b in self.breakpoints]

    def __call__(self, s: Any) -> Any:
        """The learning rate at step `s`, a scalar; an integer count becomes a float."""
        s = jnp.asarray(s)
        if not jnp.issubdtype(s.dtype, jnp.floating):
            s = s.astype(jnp.result_type(float))
        return self.function(s, **{k: jnp.asarray(v, s.dtype) for k, v in self.parameters.items()})


def as_breakpoints(given: Any, names: Iterable[str] = ()) -> tuple[Any, ...]:
    """The argument `breakpoints`: finite numbers, as floats, or some of `names`.

    **Raises:** `ValueError` for anything else.
    """
    names = list(names)
    wanted = "a sequence of finite numbers" + (" or names of parameters" if names else "")
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ValueError(f"Argument `breakpoints` must be {wanted}, but is {given!r}.")
    found: list[float | str] = []
    for b in given:
        number = isinstance(b, int | float | np.integer | np.floating) and not isinstance(b, bool)
        if isinstance(b, str) and b in names:
            found.append(b)
        elif number and np.isfinite(b):
            found.append(float(b))
        else:
            hint = near(b, names) if isinstance(b, str) else ""
            raise ValueError(f"Argument `breakpoints` must be {wanted}, but has {b!r}.{hint}")
    return tuple(found)


class _Told(eqx.Module):
    """A schedule, and 0, whose derivative is NaN in a breakpoint at which the schedule jumps."""

    schedule: Schedule
    nothing: Any

    def __call__(self, s: Any) -> Any:
        rate = self.schedule(s)
        return rate + self.nothing.astype(rate.dtype)


def without_derivative_of_jumps(rate: Any) -> Any:
    """The learning rate, with NaN for the derivative in a breakpoint at which it jumps.

    The path does depend on where a jump is, but no comparison has a derivative.
    """
    if not isinstance(rate, Schedule):
        return rate
    nothing: Any = 0.0
    for name in sorted({b for b in rate.breakpoints if isinstance(b, str)}):
        at = jnp.asarray(rate.parameters[name])
        beside = _BESIDE * jnp.maximum(jnp.abs(at), 1.0)
        before, after = rate(at - beside), rate(at + beside)
        jumps = jnp.abs(after - before) > _JUMP * jnp.maximum(jnp.abs(before), jnp.abs(after))
        nothing = nothing + without_derivative(jnp.where(jumps, at, 0.0))
    return rate if isinstance(nothing, float) else _Told(rate, nothing)
