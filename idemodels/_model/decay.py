"""A decay such as b2, held so that no digit is lost."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._checks import as_hyperparameter, is_concrete
from .._types import Hyperparameter

RATES = ("paper", "matched")

# Stands for ln 0: minus infinity times s = 0 is NaN, and so are its derivatives.
_LOG_ZERO = -1e30


class Decay(eqx.Module):
    r"""A decay $b$ per step, as $1 - b$ and $\ln b$, both taken in double on the host.

    In float32 the subtraction $1 - b_2$ alone costs two digits at 0.999, and `1 - b**s` is 1.3 %
    wrong at s = 1e-3.
    """

    complement: Hyperparameter  # 1 - b
    log: Hyperparameter  # ln b
    rate_name: str = eqx.field(static=True)

    def __init__(self, b: Any, name: str, rate: str, *, positive: bool = False):
        b = as_hyperparameter(b, name)
        if is_concrete(b):
            if positive and not 0 < b < 1:
                raise ValueError(f"Argument `{name}` must lie in (0, 1), but is {float(b)}.")
            if not 0 <= b < 1:
                raise ValueError(f"Argument `{name}` must lie in [0, 1), but is {float(b)}.")
            if rate == "matched" and b == 0:
                raise ValueError(
                    f"Argument `{name}` must be positive for rate='matched', which is -ln({name}), "
                    f"but is 0. Use rate='paper', which is 1 - {name}."
                )
            self.complement, self.log = self.leaves(b)
        else:
            self.complement = 1.0 - b
            # masked twice: neither the value nor a derivative may be NaN at 0
            self.log = jnp.where(b > 0, jnp.log(jnp.where(b > 0, b, 1.0)), _LOG_ZERO)
        self.rate_name = rate

    @staticmethod
    def leaves(b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r"""$1 - b$ and $\ln b$ of decays that are known, of any shape."""
        log = np.log(b, out=np.full_like(b, _LOG_ZERO), where=b > 0)
        return np.asarray(1.0 - b), np.asarray(log)

    @property
    def value(self) -> Any:
        """$b$ itself, from whichever of the two has more digits of it."""
        xp = jnp if isinstance(self.complement, jax.Array) else np
        return xp.where(self.complement > 0.5, xp.exp(self.log), 1.0 - self.complement)

    @property
    def rate(self) -> Any:
        r"""The kernel's rate per step: $1 - b$ ("paper") or $-\ln b$ ("matched")."""
        return self.complement if self.rate_name == "paper" else -self.log

    def correction(self, s: Any) -> Any:
        """The bias correction $1 - b^s$; at b = 0 it is 1 for every s > 0."""
        return -jnp.expm1(s * self.log)

    def corrected(self, s: Any, moment: Any, feature: Any) -> Any:
        r"""moment / ($1 - b^s$); at s = 0 its limit, feature * rate / ($-\ln b$)."""
        started = s > 0
        correction = self.correction(jnp.where(started, s, 1.0))
        return jnp.where(started, moment / correction, feature * (self.rate / -self.log))

    def valid(self) -> Any:
        """A flag: $0 <= b < 1$, and $b > 0$ where the rate is $-\\ln b$."""
        inside = (self.complement > 0) & (self.complement <= 1)
        return inside & (self.complement < 1) if self.rate_name == "matched" else inside
