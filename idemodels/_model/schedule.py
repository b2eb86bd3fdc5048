"""A learning rate that changes, without a new compilation for each of its values."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from .._checks import as_hyperparameter


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
    - `parameters`: scalars.

    **Raises:** `ValueError` if a parameter is not a scalar.
    """

    function: Callable[..., Any] = eqx.field(static=True)
    parameters: dict[str, Any]

    def __init__(self, function: Callable[..., Any], /, **parameters: Any):
        if not callable(function):
            raise ValueError(f"Argument `function` must be callable, but is {function!r}.")
        self.function = function
        self.parameters = {k: as_hyperparameter(v, k) for k, v in parameters.items()}

    def __call__(self, s: Any) -> Any:
        """The learning rate at step `s`, a scalar; an integer count becomes a float."""
        s = jnp.asarray(s)
        if not jnp.issubdtype(s.dtype, jnp.floating):
            s = s.astype(jnp.result_type(float))
        return self.function(s, **{k: jnp.asarray(v, s.dtype) for k, v in self.parameters.items()})
