"""What is proved of a run: hypotheses, bound, and what was measured."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from .._model import AbstractModel, AdaGrad, MemoryModel, RMSProp
from .._results import Trajectory
from .._types import Objective
from .convergence import convergence
from .hold import Hypothesis, all_hold
from .lyapunov import Lyapunov, lyapunov
from .stability import Stability, stability

# A path that went so much further in its second half than in its first is not taken as bounded.
_GROWTH = 1.5
# |g| in the tail, over the largest: at rest below this.
_AT_REST = 0.05


class Theorem(NamedTuple):
    """One row of the table.

    - `name`: with its source.
    - `hypotheses`: what it assumes, and whether that holds along the run.
    - `bound`: what it says, in words and numbers; `measured`: what was found.
    - `kept`: whether what was measured is as the theorem says; `None` where nothing is said.
    """

    name: str
    hypotheses: tuple[Hypothesis, ...]
    bound: str
    measured: str
    kept: bool | None

    @property
    def applies(self) -> bool:
        """Whether all hypotheses are known to hold."""
        return all_hold(self.hypotheses)

    def row(self) -> dict[str, str]:
        """As a row of a table, in words."""
        listed = "; ".join(f"{h.text}: {_WORDS[h.holds]} ({h.found})" for h in self.hypotheses)
        return {
            "theorem": self.name,
            "hypotheses": listed,
            "applies": _WORDS[self.applies],
            "bound": self.bound,
            "measured": self.measured,
            "kept": _WORDS[self.kept],
        }


_WORDS = {True: "yes", False: "no", None: "-"}


def theorems(
    model: AbstractModel,
    objective: Objective,
    trajectory: Trajectory,
    *,
    args: PyTree[Any] = None,
    minimum: float | None = None,
    tol: float = 1e-6,
) -> tuple[Theorem, ...]:
    r"""Each theorem's hypotheses, whether they hold along a run, its bound, and what was measured.

    - Decrease of V, or its constancy: [`idemodels.analysis.lyapunov`][].
    - LaSalle: where V falls along a bounded path, |g| tends to 0.
    - The exponential rate under a PL inequality: [`idemodels.analysis.convergence`][], for RMSProp
        and AdaGrad.
    - Stability of the discrete algorithm at a held second moment:
        [`idemodels.analysis.stability`][].

    The first three are of Heredia (2024), arXiv:2411.09734, and of the equation; the last, of Cohen
    et al. (2022), arXiv:2207.14484, is of the discrete algorithm. Along the other path a row says
    that it does not apply.

    **Arguments:** as for those functions.

    **Returns:** a tuple of [`Theorem`][idemodels.analysis.Theorem]; `row()` gives one as text.

    **Raises:** `ValueError` for an argument that is not as above.
    """
    energy = lyapunov(model, trajectory, objective, args=args, tol=tol)
    rows = [_decrease(energy), _lasalle(energy, trajectory)]
    if isinstance(model, RMSProp | AdaGrad):
        rows.append(_rate(model, objective, trajectory, args, minimum))
    if not isinstance(model, MemoryModel):
        rows.append(_edge(stability(model, objective, trajectory, args=args)))
    return tuple(rows)


def _decrease(energy: Lyapunov) -> Theorem:
    name = energy.theorem or "no theorem for this model"
    bound = "V is constant" if energy.constant else "V does not rise"
    if not energy.theorem:
        bound = "-"
    found = f"largest {'change' if energy.constant else 'rise'} {energy.rise:.1e} of the range"
    if energy.must_fall.any() and not energy.must_fall.all():
        found += f"; must fall at {np.mean(energy.must_fall):.0%} of the rows"
    kept = energy.falls if energy.theorem else None
    return Theorem(name, energy.hypotheses, bound, found, kept)


def _lasalle(energy: Lyapunov, trajectory: Trajectory) -> Theorem:
    way = _way(trajectory)
    half = max(1, way.size // 2)
    grows = way[half:].max(initial=0.0) / max(way[:half].max(initial=0.0), 1e-300)
    bounded = Hypothesis(
        "the path is bounded", None if grows > _GROWTH else True, f"it went {way.max():.3g} far"
    )
    falls = Hypothesis(
        "V falls", energy.applies and not energy.constant, "proved" if energy.applies else "not so"
    )
    if energy.constant:  # then L itself falls
        falls = Hypothesis("L falls", energy.applies, "the invariant's other part grows")
    found = f"|g| in the last tenth is {energy.limit:.2e} of its largest"
    name = "LaSalle: |g| tends to 0"
    return Theorem(name, (bounded, falls), "0 in the limit", found, energy.limit < _AT_REST)


def _rate(model, objective, trajectory, args, minimum) -> Theorem:
    found = convergence(trajectory, model, objective, args=args, minimum=minimum, tail=1.0)
    name = "exponential rate under PL, Heredia (2024), arXiv:2411.09734"
    if found.bound is None:
        return Theorem(name, found.hypotheses, "-", "the learning rate is not constant", None)
    known = (found.gap > 0) & np.isfinite(found.gap)
    last = int(np.flatnonzero(known)[-1])
    bound = f"gap at most {found.bound[last]:.2e} at step {found.ts[last]:.6g}"
    return Theorem(name, found.hypotheses, bound, f"{found.gap[last]:.2e}", found.bound_holds)


def _edge(edge: Stability) -> Theorem:
    known = np.isfinite(edge.ratio)
    source = _of_the_algorithm(edge.source)
    ratio, limit = edge.ratio[known], edge.threshold[known]
    bound = f"sharpness of P^-1 H below {limit[-1]:.4g}"
    found = f"largest ratio {ratio.max():.3g}, last {ratio[-1]:.3g}"
    if edge.above.any():
        found += f", first above at step {edge.first_crossing:.4g}"
    slow = Hypothesis("the second moment changes slowly", None, "not told by the path")
    return Theorem(
        "stability at a held second moment, Cohen et al. (2022), arXiv:2207.14484",
        (source, slow),
        bound,
        found,
        bool(np.all(ratio <= 1.0)),
    )


def _of_the_algorithm(source: str) -> Hypothesis:
    """The bound is the discrete algorithm's."""
    holds = {"equation": False, "discrete": True, "arrays": None}[source]
    words = {"equation": "a solved path", "discrete": "its iterates", "arrays": "arrays"}[source]
    return Hypothesis("the path is the discrete algorithm's", holds, words)


def _way(trajectory: Trajectory) -> np.ndarray:
    leaves = jax.tree.leaves(eqx.filter(trajectory.theta, eqx.is_inexact_array))
    parts = [np.abs(np.asarray(x) - np.asarray(x[:1])).reshape(len(x), -1) for x in leaves]
    far = np.max(np.concatenate(parts, axis=1), axis=1)
    return far[np.isfinite(far)]
