"""How fast the loss falls, against the hyperparameters."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._checks import check_count
from .._method import AbstractMethod, Markov
from .._model import AbstractModel
from .._parameters import as_parameters, check_model, check_objective
from .._results import RESULTS, Trajectory
from .._solve import Held, check_method
from .._target import Base
from .._types import Objective, Theta
from .convergence import convergence, least_of
from .lanes import both, leaves_of

_METHOD = Markov(rtol=1e-8, atol=1e-11, steady_tol=None)
# Rows of a path.
_ROWS = 400


def rate_table(
    model: AbstractModel,
    objective: Objective,
    theta0: Theta,
    steps: int,
    over: Mapping[str, Any],
    *,
    args: PyTree[Any] = None,
    method: AbstractMethod | None = None,
    minimum: float | None = None,
    tail: float = 0.5,
    window: float = 0.0,
) -> list[dict[str, Any]]:
    """The laws by which the losses fall, for every combination of hyperparameters.

    All lanes are one program each for equation and discrete run; the fits are those of
    [`idemodels.analysis.convergence`][].

    **Arguments:**

    - `objective`, `theta0`, `args`: as for [`idemodels.solve`][]; `steps`: how many, in each lane.
    - `over`: values by the name of a hyperparameter: `{"b1": [0.0, 0.9], "learning_rate": [...]}`.
    - `method`: `None` is `Markov(rtol=1e-8, atol=1e-11, steady_tol=None)`.
    - `minimum`, `tail`, `window`: as for [`idemodels.analysis.convergence`][].

    **Returns:** rows of a table, two for each combination: the values by name, "path" ("equation"
    or "discrete"), "law", "rate" (per step, or the exponent of a power), "low" and "high" (its
    interval at 99 %), "floor". A lane that fails, or falls into rounding at once, has the law
    "none".

    **Raises:** `ValueError` for an argument that is not as above.
    """
    check_model(model, AbstractModel, "a model such as `idemodels.Adam(0.1)`")
    check_count(steps, "steps")
    method = _METHOD if method is None else method
    check_method(method, model)
    theta, rest = as_parameters(theta0)
    check_objective(objective, eqx.combine(theta, rest), args)
    axes = {name: np.atleast_1d(np.asarray(values, float)) for name, values in over.items()}
    if not axes or any(x.ndim != 1 or not x.size for x in axes.values()):
        raise ValueError(
            f"Argument `over` must have a list of numbers for each name, but is {over!r}."
        )
    cells = np.array(list(product(*axes.values())))
    base = Base(model, Held(objective, rest), theta, args)
    leaves = leaves_of(base, dict(zip(axes, cells.T, strict=True)))
    marks = np.unique(np.round(np.linspace(0, steps, min(steps, _ROWS) + 1)).astype(int))
    found = both(base, leaves, jnp.asarray(np.tile(marks, (len(cells), 1))), method)
    minimum = least_of(objective, args) if minimum is None else minimum
    options = dict(minimum=minimum, tail=tail, window=window)
    rows = []
    for i, cell in enumerate(cells):
        values = {name: float(x) for name, x in zip(axes, cell, strict=True)}
        for source, loss in (("equation", found.path_loss), ("discrete", found.run_loss)):
            fit = _fitted(np.asarray(loss[i]), marks, options)
            rows.append({**values, "path": source, **fit})
    return rows


def _fitted(loss: np.ndarray, marks: np.ndarray, options: dict[str, Any]) -> dict[str, Any]:
    nothing = dict(law="none", rate=np.nan, low=np.nan, high=np.nan, floor=np.nan)
    known = np.isfinite(loss)
    if not known.any():
        return nothing
    ts = jnp.asarray(marks, jnp.result_type(float))
    whole = None, ts, jnp.asarray(loss), {}, RESULTS.successful, {}, None, None
    try:
        fit = convergence(Trajectory(ts, *whole), **options).fit
    except ValueError:  # too few rows above rounding
        return nothing
    value, low, high = fit.rate
    return dict(law=fit.law, rate=value, low=low, high=high, floor=fit.floor)
