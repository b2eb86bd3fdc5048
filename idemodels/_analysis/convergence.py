"""How fast a loss falls along a path, and how fast a theorem says that it must."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from .._equation import Equation, Fixed, cast, dtype_of, fraction_of
from .._model import AbstractModel, AdaGrad, RMSProp
from .._programs import program
from .._results import Trajectory
from .._types import Objective
from .decay import envelope
from .energy import potential
from .hold import Hypothesis, all_hold, constant_rate, no_weight_decay, of_the_equation
from .linearize import point_of
from .order import order
from .rates import Fit, best, fit_laws
from .rows import check_trajectory, rows_of

# A gap is known to so many roundings of the loss.
_ROUNDINGS = 100.0
_LEAST = 8
# The KL exponent up to which PL is taken to hold: 1/2, and what a finite path adds.
_PL_EXPONENT = 0.55


class Convergence(eqx.Module):
    """How the loss gap L - min L falls.

    - `ts`: the steps, shape `(T,)`; `gap`: the loss above its minimum, the term of `l2` included
        where the model is given, `(T,)`.
    - `fitted`: which rows are, `(T,)`: the tail, up to where rounding or 0 is reached.
    - `fits`: dict from the law to its [`Fit`][idemodels.analysis.Fit]; `best`: the one to prefer.
    - `pl`: the Polyak-Lojasiewicz constant mu, the least $|g|^2/(2\\,\\mathrm{gap})$ along the
        path; `None` without the objective.
    - `kl`: the Kurdyka-Lojasiewicz exponent, the slope of ln |g| over ln gap on the fitted rows:
        1/2 where PL holds, 3/4 at the minimum of x^4; `None` without the objective.
    - `bound`: the theorem's bound of the gap, `(T,)`; `None` where there is none.
    - `bound_holds`: whether the gap keeps below it; `None` without one.
    - `hypotheses`: what the theorem assumes; `theorem`: with its source, empty if there is none.
    - `source`: which path it is: "equation", "discrete" or "arrays".
    - `notes`: what else is to be known.
    """

    ts: np.ndarray
    gap: np.ndarray
    fitted: np.ndarray
    fits: dict[str, Fit]
    best: str
    pl: float | None
    kl: float | None
    bound: np.ndarray | None
    bound_holds: bool | None
    theorem: str
    hypotheses: tuple[Hypothesis, ...]
    notes: tuple[str, ...]
    source: str

    @property
    def fit(self) -> Fit:
        """The one to prefer."""
        return self.fits[self.best]


_THEOREM = (
    "L - min L <= (L0 - min L) exp(-2 mu alpha s / (sqrt(v_max) + eps)), Heredia (2024), "
    "arXiv:2411.09734"
)


def convergence(
    trajectory: Trajectory,
    model: AbstractModel | None = None,
    objective: Objective | None = None,
    *,
    args: PyTree[Any] = None,
    minimum: float | None = None,
    tail: float = 0.5,
    window: float = 0.0,
    confidence: float = 0.99,
) -> Convergence:
    r"""How fast the loss falls along a path, beside the rate that is proved.

    Three laws are fitted to the tail by least squares in $\ln(L - \min L)$: exponential,
    exponential with a floor, and a power of s with a shift. Their intervals take the scatter about
    a law for relative noise of one size, and correlated scatter for fewer points; a path without
    noise scatters by what the law leaves out.

    With the objective: the PL constant $\mu = \min |g|^2/(2 (L - \min L))$ and the KL exponent
    along the path. With the model too, for RMSProp and AdaGrad at a constant learning rate:
    $L - \min L \le (L_0 - \min L)\,e^{-2\mu\alpha s/(\sqrt{v_{max}} + \epsilon)}$, with the
    largest denominator along the path. Adam has no such bound: its loss need not fall. The theorem
    assumes PL with one constant and a bounded second moment; where v falls towards 0 the true rate
    grows without bound above that one.

    **Arguments:**

    - `trajectory`: with its losses. `model` and `objective`, `args`: whose they are, for PL, KL and
        the bound.
    - `minimum`: the least loss; `None` is the loss at `objective.minimum`, where it has one, else
        0. An unknown one is what the exponential with a floor fits.
    - `tail`: the part of the steps, from the end, that is fitted; in (0, 1].
    - `window`: steps over which the largest gap is taken, to hide oscillation.
    - `confidence`: of the intervals, in (0, 1).

    **Returns:** a [`Convergence`][idemodels.analysis.Convergence].

    **Raises:** `ValueError` for an argument that is not as above, or fewer than 8 rows to fit.
    """
    _check(trajectory, tail, window, confidence)
    s, loss = np.asarray(trajectory.ts, float), np.asarray(trajectory.loss, float)
    along = None if objective is None else _measured(trajectory, model, objective, args)
    loss = loss if along is None else along.loss
    gap = loss - _least(objective, model, minimum, args)
    eps = float(np.finfo(np.asarray(trajectory.loss).dtype).eps)
    room = _ROUNDINGS * eps * float(np.max(np.abs(loss), initial=0.0, where=np.isfinite(loss)))
    upper = envelope(s, gap, window)
    rows = _tail(s, upper, room, tail)
    fits = fit_laws(s[rows], upper[rows], confidence)
    pl = kl = None
    proved = _Proved(None, None, "", (of_the_equation(trajectory),), ())
    if along is not None:
        known = np.isfinite(gap) & (gap > room) & np.isfinite(along.gradient)
        pl = float(np.min(along.gradient[known] ** 2 / (2.0 * gap[known]), initial=np.inf))
        kl = order(gap[rows & known], along.gradient[rows & known])
        if isinstance(model, RMSProp | AdaGrad):
            proved = _rate(model, trajectory, along, gap, (pl, kl), room)
    if model is not None and not isinstance(model, RMSProp | AdaGrad):
        note = f"No rate is proved for {type(model).__name__}: its loss need not fall."
        proved = proved._replace(notes=(note,))
    return Convergence(s, gap, rows, fits, best(fits), pl, kl, *proved, trajectory.source)


class _Proved(NamedTuple):
    bound: np.ndarray | None
    holds: bool | None
    theorem: str
    hypotheses: tuple[Hypothesis, ...]
    notes: tuple[str, ...]


class _Along(NamedTuple):
    """Loss and gradient at every row; the largest and least denominator of all."""

    loss: np.ndarray
    gradient: np.ndarray
    widest: float
    narrowest: float


def _rate(model: Any, trajectory: Trajectory, along: _Along, gap, measured, room) -> _Proved:
    """The exponential bound along a path, and what it assumes."""
    pl, kl = measured
    found = f"mu = {pl:.3g} along the path, KL exponent {kl:.3g}"
    # where the exponent is above 1/2 the constant falls to 0 with the gap
    one_constant = bool(pl > 0) and not kl > _PL_EXPONENT
    hypotheses = (
        of_the_equation(trajectory),
        Hypothesis("PL with one constant", one_constant, found),
        constant_rate(model),
        no_weight_decay(model),
        Hypothesis("the second moment is bounded", True, f"its root by {along.widest:.3g}"),
    )
    notes = []
    if along.narrowest < 0.1 * along.widest:
        notes.append(
            f"The root of the second moment goes from {along.widest:.2g} down to "
            f"{along.narrowest:.2g}: the bound has the former, and the rate grows as it falls."
        )
    if not all_hold(hypotheses):
        notes.append("The bound is not proved here: see `hypotheses`.")
    bound = holds = None
    if constant_rate(model).holds and trajectory.times is not None:
        t = np.asarray(trajectory.times, float)
        bound = gap[0] * np.exp(-2.0 * pl * (t - t[0]) / along.widest)
        known = np.isfinite(gap)
        holds = bool(np.all(gap[known] <= bound[known] * (1.0 + 1e-6) + room))
    return _Proved(bound, holds, _THEOREM, hypotheses, tuple(notes))


def _check(trajectory: Trajectory, tail: float, window: float, confidence: float) -> None:
    check_trajectory(trajectory)
    if not 0 < tail <= 1:
        raise ValueError(f"Argument `tail` must lie in (0, 1], but is {tail}.")
    if not 0 < confidence < 1:
        raise ValueError(f"Argument `confidence` must lie in (0, 1), but is {confidence}.")
    if not 0 <= window < np.inf:
        raise ValueError(f"Argument `window` must be 0 or more, and finite, but is {window}.")
    if trajectory.loss is None:
        raise ValueError(
            "Argument `trajectory` must have losses, but has none. Pass one of `idemodels.solve` "
            "or `idemodels.run_discrete`."
        )


def _tail(s: np.ndarray, upper: np.ndarray, room: float, tail: float) -> np.ndarray:
    """The rows to fit: the last part of those before rounding is reached."""
    rows = np.zeros(s.size, bool)
    large = np.isfinite(upper) & (upper > room)
    if large.any():
        end = s[np.flatnonzero(large)[-1]]
        rows = large & (s <= end) & (s >= end - tail * (end - s[0])) & (s > 0)
    if np.count_nonzero(rows) < _LEAST:
        raise ValueError(
            f"Argument `trajectory` must have {_LEAST} rows or more in its tail whose loss is "
            f"above `minimum` by more than rounding ({room:.1e}), but has "
            f"{np.count_nonzero(rows)}. Lower `minimum`, keep more rows, or raise `tail`."
        )
    return rows


def _least(objective: Any, model: Any, minimum: float | None, args: Any) -> float:
    if minimum is not None:
        if not np.isfinite(minimum):
            raise ValueError(f"Argument `minimum` must be finite, but is {minimum}.")
        return float(minimum)
    if model is not None and float(model.l2) != 0:
        return 0.0
    known = least_of(objective, args)
    return 0.0 if known is None else known


def least_of(objective: Any, args: Any) -> float | None:
    """The loss at `objective.minimum`, where there is one."""
    own = getattr(objective, "minimum", None)
    if own is None:
        return None
    own = jnp.asarray(own, jnp.result_type(float))
    return float(objective(own) if args is None else objective(own, args))


def _measured(trajectory: Trajectory, model: Any, objective: Any, args: Any) -> _Along:
    if model is None:
        first = jax.tree.map(lambda x: x[0] if eqx.is_inexact_array(x) else x, trajectory.theta)
        equation = point_of(_PLAIN, objective, first, args).equation
        thetas = eqx.filter(trajectory.theta, eqx.is_inexact_array)
        moments = {}
        s = jnp.asarray(trajectory.ts, dtype_of(thetas))
    else:
        rows = rows_of(model, trajectory)
        equation = point_of(model, objective, rows.first, args).equation
        s, thetas, moments = rows.take(np.arange(rows.s.size))
    loss, gradient, widest, narrowest = _along(equation, model is not None, s, thetas, moments)
    widest, narrowest = np.asarray(widest, float), np.asarray(narrowest, float)
    return _Along(
        np.asarray(loss, float),
        np.asarray(gradient, float),
        float(np.nanmax(widest)),
        float(np.nanmin(narrowest)),
    )


# Whose gradient is that of the loss alone.
_PLAIN = AdaGrad(1.0)


@program
def _along(equation: Equation, has_model: bool, s, thetas, moments):
    model = cast(equation.model, dtype_of(thetas))

    def row(of):
        s, theta, moments = of
        g = equation.gradient(theta, Fixed(jax.tree.map(lambda _: None, theta)))
        loss = equation.loss(theta) + potential(model, theta)
        size = jnp.linalg.norm(ravel_pytree(g)[0])
        if not has_model:
            return loss, size, jnp.ones_like(s), jnp.ones_like(s)
        below = ravel_pytree(fraction_of(model, s, theta, g, moments)[1])[0]
        past = jnp.where(s > 0, 1.0, jnp.nan)  # a memory is empty at the start
        return loss, size, jnp.max(below) * past, jnp.min(below) * past

    return jax.lax.map(row, (s, thetas, moments))
