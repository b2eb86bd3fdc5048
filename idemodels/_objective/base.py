"""A loss with what is known of it."""

import abc
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._hashed import Hashed
from .._types import Theta


class AbstractObjective(Hashed):
    """A loss `objective(theta)` with its usual start, `.theta0`.

    Any callable is an objective; these carry what examples and tests ask for. Their numbers are
    leaves: traced, swept, differentiated.
    """

    @property
    @abc.abstractmethod
    def theta0(self) -> Theta:
        """The start: of JAX's default floating type."""

    @abc.abstractmethod
    def __call__(self, theta: Theta) -> Any:
        """The loss, a scalar."""


def as_host(x: Any) -> Any:
    """An array on the host in double precision, or a traced or device array as it is."""
    return x if isinstance(x, jnp.ndarray) else np.asarray(x, np.float64)


def default(x: Any) -> Any:
    """`x` in JAX's default floating type."""
    return jnp.asarray(x, jnp.result_type(float))
