"""Whether an energy falls along a path."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from .._checks import check_positive
from .._equation import Augmented, Equation, Fixed, cast, dtype_of
from .._kernel import Constant, Exponential
from .._model import Adam, MemoryModel
from .._programs import program
from .._results import Trajectory
from .._second import pushed
from .._types import Objective
from .energy import bracket_of, law_of, potential
from .hold import Hypothesis, all_hold, of_the_equation
from .linearize import point_of
from .rows import Rows, rows_of

# The tail of a path: its last part, in rows.
_TAIL = 0.1


class Lyapunov(eqx.Module):
    """A function V along a path, and whether it falls where it must.

    - `ts`: the steps, shape `(T,)`.
    - `value`: V, `(T,)`.
    - `derivative`: dV/ds along the equation, `(T,)`, unit of L per step; `None` without the
        objective, or where the path keeps not all states that it takes. NaN at s = 0 of a causal
        reading. On a discrete path it is that of the equation through its points.
    - `bound`: what the theorem says that it is at most, `(T,)`; `None` without a theorem.
    - `must_fall`: where the theorem says so, `(T,)`.
    - `rise`: the largest rise of V above an earlier row, over V's range; of a V that is constant,
        how far it goes from its start, over that of L. `rise_at`: the step where that is.
    - `gradient`: the norm |g|, `(T,)`; `None` without the objective.
    - `theorem`: with its source; empty if there is none. `hypotheses`: what it assumes, and whether
        that holds. `notes`: what else is to be known.
    - `constant`: whether V is to stay, rather than fall.
    - `source`: which path it is: "equation", "discrete" or "arrays".
    - `tol`: the rise that is put down to the solver.
    """

    ts: np.ndarray
    value: np.ndarray
    derivative: np.ndarray | None
    bound: np.ndarray | None
    must_fall: np.ndarray
    rise: float
    rise_at: float
    gradient: np.ndarray | None
    theorem: str
    hypotheses: tuple[Hypothesis, ...]
    notes: tuple[str, ...]
    constant: bool
    source: str
    tol: float

    @property
    def applies(self) -> bool:
        """Whether there is a theorem, and all that it assumes holds."""
        return bool(self.theorem) and all_hold(self.hypotheses)

    @property
    def falls(self) -> bool:
        """Whether V never rises by more than `tol` of its range; or stays, where it is constant."""
        return self.rise <= self.tol

    @property
    def limit(self) -> float:
        """LaSalle: the largest |g| over the last tenth of the rows, over the largest of all.

        Where V falls and the path is bounded, its limit set consists of points with g = 0. NaN
        without the objective.
        """
        if self.gradient is None:
            return float("nan")
        known = self.gradient[np.isfinite(self.gradient)]
        tail = known[-max(1, int(_TAIL * known.size)) :]
        return float(tail.max() / known.max()) if known.max() > 0 else 0.0

    @property
    def statement(self) -> str:
        """What was looked at, what is proved, and what was found."""
        if not self.theorem:
            head = self.notes[0]
        elif self.applies:
            head = f"Proved: {self.theorem}."
        else:
            failed = [f"{h.text} ({h.found})" for h in self.hypotheses if h.holds is not True]
            head = f"Not proved here: {self.theorem}. It assumes: {'; '.join(failed)}."
        verb = ("moves", "stays") if self.constant else ("rises", "does not rise")
        found = f"V {verb[self.falls]}: {self.rise:.1e} of its range"
        where = "" if self.falls else f", at step {self.rise_at:.6g}"
        return f"{head} {found}{where}."


def lyapunov(
    model: Any,
    trajectory: Trajectory,
    objective: Objective | None = None,
    *,
    args: PyTree[Any] = None,
    tol: float = 1e-6,
) -> Lyapunov:
    r"""A Lyapunov function along a path, and whether it falls where it must.

    Adam, bias correction included, with $r_i$ the rates of the memories, $l_i = -\ln b_i$,
    $c_i = 1 - b_i^s$, $\hat m = m/c_1$, $\hat v = v/c_2$: (E10)

    $$V = L + \frac{\alpha c_1}{2 r_1} \sum \frac{\hat m^2}{\sqrt{\hat v} + \epsilon}, \quad
      V' \le -\alpha \Bigl[c_1 + \frac{l_1 (1-c_1)}{2 r_1} - \frac{c_1 \rho_2}{4 r_1}\Bigr]
      \sum \frac{\hat m^2}{\sqrt{\hat v} + \epsilon}, \quad
      \rho_2 = r_2 + \frac{l_2 (1-c_2)}{c_2}$$

    which falls for $r_2 \le 4 r_1$, a learning rate that does not rise and no decoupled weight
    decay. RMSProp and AdaGrad: $V = L$, for any learning rate. AdaGrad, causal, at a constant rate:
    $L + 2\alpha \sum (\sqrt G - \epsilon \ln(1 + \sqrt G/\epsilon))$, which is constant. The term
    $(\lambda/4)|\theta|^2$ of `l2` is a part of L in all of them. A `MemoryModel`: the loss and the
    energy of its first memory of g under an exponential kernel,
    $(\alpha c/(2 r)) \sum m\,\mathrm{direction}$, without a theorem; any other: the loss.

    The theorems are about the equation. For iterates of the discrete algorithm they say nothing,
    and the result does (`applies`, `statement`).

    Source: Heredia (2024), arXiv:2411.09734, whose V is without bias correction, for the equation
    without it; that one may rise along the equation with it. (E10) is here for the latter.

    **Arguments:**

    - `trajectory`: with its moments; kept densely enough to see a rise.
    - `objective`, `args`: for `derivative` and `gradient`; may be left out but for a `MemoryModel`,
        or a path without losses.
    - `tol`: the rise, over V's range, that is put down to the solver: its `rtol`.

    **Returns:** a [`Lyapunov`][idemodels.analysis.Lyapunov].

    **Raises:** `ValueError` for an argument that is not as above.
    """
    check_positive(np.asarray(tol, float), "tol")
    rows = rows_of(model, trajectory)
    law = law_of(model)
    if objective is None:
        _check_losses(model, trajectory)
        equation = Equation(model, _no_objective)
    else:
        equation = point_of(model, objective, rows.first, args).equation
    states = _states(model, trajectory)
    used = np.flatnonzero(rows.finite)
    s, thetas, moments = rows.take(used)
    take = lambda tree: jax.tree.map(lambda x: x[used], tree)
    given = (s, thetas, moments, None if states is None else take(states))
    loss = None if trajectory.loss is None else trajectory.loss[used]
    along = _along(equation, law.extra, law.slack, given, loss, objective is not None)
    found = {name: _spread(x, used, rows) for name, x in along.items()}
    if model.singular_start and "derivative" in found:
        found["derivative"][rows.s == 0] = np.nan
    alphas = np.asarray(jax.vmap(lambda s: cast(model, s.dtype).alpha(s))(s), float)
    hypotheses = (of_the_equation(trajectory), *law.assumes(model, alphas))
    must_fall = np.full(rows.s.size, bool(law.theorem) and not law.constant)
    bound = np.zeros(rows.s.size) if law.theorem else None
    if isinstance(model, Adam):
        bound = found["bound"]
        must_fall = np.nan_to_num(found["falling"], nan=0.0) > 0
    others = [h for h in hypotheses if h.text != "r2 <= 4 r1"]
    must_fall &= rows.finite & all_hold(others)
    value = found["value"]
    rise, at = _rise(value, found["loss"], law.constant)
    return Lyapunov(
        rows.s,
        value,
        found.get("derivative"),
        bound,
        must_fall,
        rise,
        float(rows.s[at]),
        found.get("gradient"),
        law.theorem,
        hypotheses,
        law.notes,
        law.constant,
        trajectory.source,
        float(tol),
    )


@program
def _along(equation, extra, slack, given, losses, has_objective):
    """V and what belongs to it at every row."""
    dtype = dtype_of(given[1])
    model = cast(equation.model, dtype)

    def row(of):
        (s, theta, moments, memory), loss = of
        fixed = Fixed(jax.tree.map(lambda _: None, theta))
        g = jax.tree.map(jnp.zeros_like, theta)
        out = {}
        if has_objective:
            loss = equation.loss(theta)
            g = equation.gradient(theta, fixed)
            out["gradient"] = jnp.linalg.norm(ravel_pytree(g)[0])
        whole = loss + potential(model, theta)
        out["loss"] = whole
        out["value"] = whole + extra(model, s, theta, g, moments)
        if slack is not None:
            out["bound"] = slack(model, s, theta, g, moments)
            out["falling"] = jnp.where(bracket_of(model, s) >= 0, 1.0, 0.0)
        if has_objective and memory is not None:
            y = Augmented(theta, memory["memory"], fixed, memory["velocity"])

            def energy(at):
                s, y = at
                moments = {n: m.markov.read(y.memory[n]) for n, m in model.memories().items()}
                g = equation.gradient(y.theta, fixed)
                rest = extra(model, s, y.theta, g, moments)
                return equation.loss(y.theta) + potential(model, y.theta) + rest

            rates = equation(s, y, None)
            out["derivative"] = pushed(energy, (s, y), (jnp.ones_like(s), rates))
        return out

    return jax.lax.map(row, (given, losses))


def _rise(value: np.ndarray, loss: np.ndarray, constant: bool) -> tuple[float, int]:
    known = np.flatnonzero(np.isfinite(value))
    V, L = value[known], loss[known]
    if constant:
        away, span = np.abs(V - V[0]), np.ptp(L)
    else:
        away, span = V - np.minimum.accumulate(V), np.ptp(V)
    at = int(np.argmax(away))
    return (float(away[at] / span) if span > 0 else 0.0), int(known[at])


def _states(model: Any, trajectory: Trajectory) -> Any:
    """The memories' states at every row, as far as the path tells them."""
    kept = trajectory.states
    if kept is not None:
        orders = {n: m.markov.state_space()[1].size for n, m in model.memories().items()}
        sizes = {n: jax.tree.leaves(kept.memory[n])[0].shape[1] for n in kept.memory}
        if orders != sizes or (model.inertial and kept.velocity is None):
            return None
        return {"memory": kept.memory, "velocity": kept.velocity}
    kernels = [memory.kernel for memory in model.memories().values()]
    known = set(model.memories()) <= set(trajectory.moments)
    if (
        model.inertial
        or not known
        or not all(isinstance(k, Exponential | Constant) for k in kernels)
    ):
        return None
    as_states = lambda x: x[:, None] if eqx.is_inexact_array(x) else None
    memory = {n: jax.tree.map(as_states, trajectory.moments[n]) for n in model.memories()}
    return {"memory": memory, "velocity": None}


def _spread(x: Any, used: np.ndarray, rows: Rows) -> np.ndarray:
    full = np.full(rows.s.size, np.nan)
    full[used] = np.asarray(x, float)
    return full


def _no_objective(theta: Any) -> Any:
    raise AssertionError("no objective was given")


def _check_losses(model: Any, trajectory: Trajectory) -> None:
    if isinstance(model, MemoryModel):
        raise ValueError(
            "Argument `objective` must be given for a `MemoryModel`, whose direction may read the "
            "gradient, but is None."
        )
    if trajectory.loss is None:
        raise ValueError(
            "Argument `objective` must be given for a trajectory without losses, but is None."
        )
