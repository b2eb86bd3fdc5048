"""How far the equation is from the discrete run as the learning rate falls."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._checks import check_count, check_positive
from .._method import AbstractMethod, Markov
from .._model import AbstractModel, Decay
from .._parameters import as_parameters, check_model, check_objective
from .._solve import Held, check_method
from .._target import Base
from .._types import Objective, Theta
from .lanes import both, leaves_of
from .order import order

_METHOD = Markov(rtol=1e-9, atol=1e-12, steady_tol=1e-7)
# An error counts for a slope where it is so many times that of the solver.
_CLEAR = 10.0


class Errors(eqx.Module):
    """The equation's distance from the discrete run, against the learning rate.

    - `error`: the largest over the path, over leaves and components, shape `(A,)`; NaN where the
        solve failed.
    - `relative`: over the discrete run's way, `(A,)`.
    - `solver_error`: against a second solve at 10 times the tolerance, `(A,)`; NaN without one.
    - `decays`: by name, the model's decays, `(A,)`.
    - `predicted`: the follow-up's order, $\\max(\\alpha, (\\alpha/(1-b_1))^2, \\alpha/(1-b_2))$.
    - `slope`, `predicted_slope`: of `error` and `predicted` over the rates, in logarithms; errors
        below 10 times the solver's are left out.
    """

    error: np.ndarray
    relative: np.ndarray
    solver_error: np.ndarray
    decays: dict[str, np.ndarray]
    predicted: np.ndarray
    slope: float
    predicted_slope: float


class Agreement(eqx.Module):
    """Where the equation describes the discrete run.

    - `alphas`: descending, shape `(A,)`; `steps`: as many each, `(A,)`.
    - `fixed_betas`, `fixed_memory`: [`Errors`][idemodels.analysis.Errors] with the model's decays,
        and with memory times that stay in $t = \\alpha s$: $1 - b$ falls as alpha.
    - `over`: the decays of the map by name; `map`: the relative error, shape `(A, ...)` with an
        axis for each of them; `None` without.
    """

    alphas: np.ndarray
    steps: np.ndarray
    fixed_betas: Errors
    fixed_memory: Errors
    over: dict[str, np.ndarray]
    map: np.ndarray | None

    @property
    def grade(self) -> np.ndarray | None:
        """Of the map: 0.01 or 0.1, whichever the relative error is within, or infinite if none."""
        if self.map is None:
            return None
        tenth = np.where(self.map <= 0.1, 0.1, np.inf)
        return np.where(self.map <= 0.01, 0.01, tenth)


def agreement(
    model: AbstractModel,
    objective: Objective,
    theta0: Theta,
    alphas: Any,
    horizon: float,
    over: Mapping[str, Any] | None = None,
    *,
    args: PyTree[Any] = None,
    method: AbstractMethod | None = None,
    marks: int = 50,
    recheck: bool = True,
) -> Agreement:
    r"""The error of the equation against the discrete run as the learning rate falls.

    Over the papers' time `horizon`, so that each rate makes `horizon / alpha` steps, in two ways:
    with the model's decays, and with its memory times held in t. The follow-up, arXiv:2602.09101,
    predicts the order $\max(\alpha, (\alpha/(1-b_1))^2, \alpha/(1-b_2))$ for fixed decays; with
    memory times held its last two terms do not fall, though the error does, as alpha. RMSProp has
    $\max(\alpha, \alpha/(1-b))$ here, AdaGrad alpha.

    All lanes, of the map too, are one program each for equation and discrete run.

    **Arguments:**

    - `model`: its learning rate is replaced; a schedule is refused.
    - `alphas`: learning rates, positive; at least two.
    - `horizon`: the time t of all runs; at least four steps of the largest rate.
    - `over`: for a map, values by the name of a decay: `{"b1": [...], "b2": [...]}`; those that
        are left out stay.
    - `method`: `None` is `Markov(rtol=1e-9, atol=1e-12, steady_tol=1e-7)`.
    - `marks`: at how many steps both are compared: evenly in their logarithm, from the first on.
    - `recheck`: whether to solve again at 10 times the tolerance, all but the map.

    **Returns:** an [`Agreement`][idemodels.analysis.Agreement].

    **Raises:** `ValueError` for an argument that is not as above.
    """
    check_model(model, AbstractModel, "a model such as `idemodels.Adam(0.1)`")
    method = _METHOD if method is None else method
    check_method(method, model)
    rates = _checked_rates(model, alphas, horizon)
    check_count(marks, "marks")
    theta, rest = as_parameters(theta0)
    check_objective(objective, eqx.combine(theta, rest), args)
    base = Base(model, Held(objective, rest), theta, args)
    own = {name: float(np.asarray(decay.value)) for name, decay in decays_of(model).items()}
    grid = _checked_grid(own, over)
    lanes = _lanes(rates, own, grid)
    steps = np.round(horizon / rates).astype(int)
    at = _marks(np.round(horizon / lanes["learning_rate"]).astype(int), marks)
    leaves = leaves_of(base, lanes)
    found = both(base, leaves, jnp.asarray(at), method)
    error, relative = _apart(found.path, found.run, found.okay)
    A = rates.size
    doubt = np.full(error.size, np.nan)
    if recheck and isinstance(method, Markov):
        looser = replace(method, rtol=10 * method.rtol, atol=10 * method.atol)
        ahead = lambda tree: jax.tree.map(lambda x: x[: 2 * A], tree)  # all but the map
        again = both(base, ahead(leaves), jnp.asarray(at[: 2 * A]), looser)
        doubt[: 2 * A] = _apart(ahead(found.path), again.path, ahead(found.okay) & again.okay)[0]
    of = lambda part: _errors(
        rates, error[part], relative[part], doubt[part], {n: lanes[n][part] for n in own}
    )
    cells = relative[2 * A :].reshape(A, *(x.size for x in grid.values())) if grid else None
    return Agreement(rates, steps, of(slice(0, A)), of(slice(A, 2 * A)), grid, cells)


def decays_of(model: AbstractModel) -> dict[str, Decay]:
    """The model's decays by the constructor's names."""
    fields = vars(model).items()
    return {name.removeprefix("_"): x for name, x in fields if isinstance(x, Decay)}


def predicted(alphas: np.ndarray, decays: dict[str, np.ndarray]) -> np.ndarray:
    """The follow-up's order: max(alpha, (alpha / (1 - b1))^2, alpha / (1 - b2))."""
    terms = [alphas]
    for name, values in decays.items():
        share = alphas / (1.0 - values)
        terms.append(share**2 if name == "b1" else share)
    return np.max(terms, axis=0)


def _errors(alphas, error, relative, doubt, decays) -> Errors:
    clear = np.where(error > _CLEAR * np.nan_to_num(doubt), error, np.nan)
    expected = predicted(alphas, decays)
    slopes = order(alphas, clear), order(alphas, expected)
    return Errors(error, relative, doubt, decays, expected, *slopes)


def _lanes(alphas: np.ndarray, own: dict[str, float], grid: dict[str, np.ndarray]) -> Any:
    """By name the values of all lanes: fixed decays, fixed memory times, and the map."""
    rows = [(alpha, *own.values()) for alpha in alphas]
    rows += [(a, *(1.0 - (1.0 - b) * a / alphas[0] for b in own.values())) for a in alphas]
    if grid:
        axes = [grid.get(name, np.array([b])) for name, b in own.items()]
        rows += list(product(alphas, *axes))
    columns = np.array(rows, float).T
    return dict(zip(("learning_rate", *own), columns, strict=True))


def _marks(steps: np.ndarray, marks: int) -> np.ndarray:
    """From 0 to the last step of each lane, evenly in the logarithm, integers that increase."""
    count = min(marks, int(steps.min()))
    even = np.geomspace(1.0, steps, count, axis=1)
    inner = np.maximum(np.round(even).astype(int), np.arange(1, count + 1))
    return np.concatenate([np.zeros((steps.size, 1), int), inner], axis=1)


def _apart(a: PyTree[Any], b: PyTree[Any], okay: Any) -> tuple[np.ndarray, np.ndarray]:
    """The largest distance of each lane, and that over the way of `b`."""
    size = lambda x, y: np.max(np.abs(x - y).reshape(len(x), -1), axis=1, initial=0.0)
    pairs = list(zip(*(jax.tree.leaves(jax.device_get(tree)) for tree in (a, b)), strict=True))
    error = np.max([size(x, y) for x, y in pairs], axis=0)
    way = np.max([size(y, y[:, :1]) for _, y in pairs], axis=0)
    error = np.where(np.asarray(okay), error, np.nan).astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return error, error / way


def _checked_rates(model: AbstractModel, alphas: Any, horizon: Any) -> np.ndarray:
    if callable(model.learning_rate):
        raise ValueError(
            "Argument `model` must have a constant learning rate, which `alphas` replace, but has "
            f"{model.learning_rate!r}."
        )
    check_positive(np.asarray(horizon, float), "horizon")
    found = np.unique(np.asarray(alphas, float))[::-1]
    if found.size < 2 or not np.all((found > 0) & np.isfinite(found)):
        raise ValueError(
            f"Argument `alphas` must have two or more positive learning rates, but is {alphas!r}."
        )
    if horizon / found[0] < 4:
        raise ValueError(
            f"Argument `horizon` must be at least 4 steps of the largest rate, {4 * found[0]:g}, "
            f"but is {horizon:g}."
        )
    return found


def _checked_grid(own: dict[str, float], over: Any) -> dict[str, np.ndarray]:
    grid = {}
    for name, values in (over or {}).items():
        if name not in own:
            listed = ", ".join(map(repr, own)) or "none"
            raise ValueError(
                f"Argument `over` must have names of the model's decays, {listed}, but has "
                f"{name!r}."
            )
        grid[name] = np.atleast_1d(np.asarray(values, float))
        if not np.all((grid[name] >= 0) & (grid[name] < 1)):
            raise ValueError(f"Argument `over` must have {name!r} in [0, 1), but has {values!r}.")
    return {name: grid[name] for name in own if name in grid}
