"""Up to which horizon a derivative says what a change of a hyperparameter does."""

from dataclasses import dataclass
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._discrete import run_discrete
from .._method import AbstractMethod
from .._results import is_okay
from .._solve import solve
from .._target import Base, Target, dtype_of_base, target_of

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
    run = _Run(base, target_of(base, name, "wrt"), tuple(int(k) for k in ts), method)
    sides = []
    for continuous in (True, False):
        loss, slope, secant, okay = jax.device_get(_along(run, change, continuous))
        sides.append(Horizon(np.asarray(ts), loss, slope, secant, bool(okay)))
    return sides[0], sides[1]


class _Run(eqx.Module):
    """The loss along a path, against the logarithm of a factor of one value."""

    base: Base
    target: Target
    marks: tuple[int, ...] = eqx.field(static=True)
    method: AbstractMethod

    def loss(self, log: Any, continuous: bool) -> tuple[Any, Any]:
        base = self.target.moved(self.base, self.target.of(self.base) * jnp.expm1(log))
        given = base.model, base.objective, base.theta0
        if continuous:
            options = {"method": self.method, "adjoint": dfx.ForwardMode(), "throw": False}
            path = solve(*given, np.asarray(self.marks, float), **options)
        else:
            path = run_discrete(*given, self.marks[-1], ts=self.marks)
        return path.loss, is_okay(path.result)


@eqx.filter_jit
def _along(run: _Run, change: float, continuous: bool) -> Any:
    zero = jnp.zeros((), dtype_of_base(run.base))
    of = lambda log: run.loss(log, continuous)
    loss, slope, okay = jax.jvp(of, (zero,), (jnp.ones_like(zero),), has_aux=True)
    h = jnp.asarray(np.log1p(change), zero.dtype)
    (down, up), others = jax.lax.map(of, jnp.stack([-h, h]))
    return loss, slope, (up - down) / (2 * h), okay & jnp.all(others)
