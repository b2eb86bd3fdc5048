"""Up to which horizon a derivative says what a change of a hyperparameter does."""

from dataclasses import dataclass
from typing import Any

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np

from .._programs import program
from .._results import is_okay
from .._run import Run
from .._target import Base, dtype_of_base, target_of

# A derivative that misses the change by more than this part of it is of no use.
USEFUL = 0.5


@dataclass(frozen=True)
class Horizon:
    """One side's derivatives along a path, in the logarithm of a hyperparameter; shape `(T,)`.

    - `ts`: the horizons, in optimizer steps.
    - `slope`: the derivative of the loss there.
    - `secant`: the same by a change of a given part of the hyperparameter, up and down.
    - `missed`: how far they are apart, of the larger.
    - `okay`: whether the run was solved.
    """

    ts: np.ndarray
    loss: np.ndarray
    slope: np.ndarray
    secant: np.ndarray
    okay: bool

    @property
    def missed(self) -> np.ndarray:
        larger = np.maximum(np.abs(self.slope), np.abs(self.secant))
        return np.abs(self.slope - self.secant) / np.where(larger > 0, larger, 1.0)

    @property
    def useful_until(self) -> int:
        """The last of `ts` up to which `missed` is below 1/2 throughout."""
        bad = np.flatnonzero(~(self.missed <= USEFUL))
        return int(self.ts[-1] if bad.size == 0 else self.ts[max(bad[0] - 1, 0)])


def horizon(
    model: Any, objective: Any, theta0: Any, ts: np.ndarray, name: str, change: float, method: Any
) -> tuple[Horizon, Horizon]:
    """**Returns:** the equation's and the discrete run's.

    **Arguments:**

    - `ts`: the horizons, increasing integers from 0.
    - `name`: of a positive hyperparameter.
    - `change`: the part of it that the secants move it by.
    """
    base = Base(model, objective, theta0, None)
    targets = {name: target_of(base, name, "name")}
    run = Run(base, targets, tuple(int(k) for k in ts), method)
    sides = []
    for continuous in (True, False):
        loss, slope, secant, okay = jax.device_get(_along(run, name, change, continuous))
        sides.append(Horizon(np.asarray(ts), loss, slope, secant, bool(okay)))
    return sides[0], sides[1]


@program
def _along(run: Run, name: str, change: float, continuous: bool) -> Any:
    value = run.targets[name].value(run.base)

    def loss(log: Any) -> tuple[Any, Any]:
        path = run.path({name: value * jnp.expm1(log)}, continuous, dfx.ForwardMode())
        return path.loss, is_okay(path.result)

    zero = jnp.zeros((), dtype_of_base(run.base))
    at_zero, slope, okay = jax.jvp(loss, (zero,), (jnp.ones_like(zero),), has_aux=True)
    h = jnp.asarray(np.log1p(change), zero.dtype)
    (down, up), others = jax.lax.map(loss, jnp.stack([-h, h]))
    return at_zero, slope, (up - down) / (2 * h), okay & jnp.all(others)
