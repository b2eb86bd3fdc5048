"""How the error of flows falls with the learning rate: the orders that are observed."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._discrete import iterates
from .._equation import cast, dtype_of
from .._flow import FlowEquation, InterpolatingFlow, weights_of
from .._method import Markov
from .._parameters import as_parameters, check_objective
from .._programs import program
from .._results import State, is_okay
from .._solve import Held, prepare, report
from .order import order

# At so many points flow and discrete run are compared, and an error counts for a slope above that
# part of the path's size: below it is the solver's and rounding.
_POINTS, _FLOOR = 40, 3e-11


class OrderStudy(eqx.Module):
    """The errors of flows against the discrete run.

    - `alphas`: the learning rates, `(A,)`; `orders`: those of the flows, `(P,)`.
    - `errors`: the largest over the path, `(P, A)`; NaN where the solve failed.
    - `slopes`: by order, of the errors over `alphas` in logarithms, `(P,)`: what is below 3e-11 of
        the path's size is left out, and NaN is where fewer than two errors are left.
    """

    alphas: np.ndarray
    orders: tuple[int, ...] = eqx.field(static=True)
    errors: np.ndarray
    slopes: np.ndarray

    def __str__(self) -> str:
        heads = ("order", *(f"{alpha:g}" for alpha in self.alphas), "slope")
        lines: list[tuple[str, ...]] = [heads]
        for p, errors, slope in zip(self.orders, self.errors, self.slopes, strict=True):
            lines.append((str(p), *(f"{error:.2e}" for error in errors), f"{slope:.2f}"))
        return "\n".join("  ".join(cell.rjust(9) for cell in line) for line in lines)

    def figure(self, title: str = "") -> Any:
        """The errors over the learning rate, with their slopes; needs matplotlib."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5.0, 3.8), layout="constrained")
        axes = figure.subplots()
        for p, errors, slope in zip(self.orders, self.errors, self.slopes, strict=True):
            axes.loglog(self.alphas, errors, marker="o", label=f"order {p}: slope {slope:.2f}")
        axes.set_xlabel(r"learning rate $\alpha$")
        axes.set_ylabel("largest error against the discrete run")
        axes.set_title(title)
        axes.legend()
        return figure


def order_study(
    tx_of_alpha: Callable[[Any], Any],
    objective: Any,
    theta0: Any,
    time: float,
    alphas: Any,
    orders: Sequence[int] = (1, 2, 3, 4),
    *,
    exact_time: float = 0.0,
    stride: int = 1,
    args: Any = None,
    method: Markov | None = None,
) -> OrderStudy:
    r"""Solves flows of several orders for several learning rates, beside the discrete runs.

    An order is seen where memories last for a fixed time: $1 - \beta$ of the order of alpha.

    !!! Example

        ```python
        found = ide.analysis.order_study(
            lambda alpha: optax.adam(alpha, 1 - alpha / 0.5, 1 - alpha / 5),
            ide.Quadratic(), 1.0, 2.0, [0.05, 0.025, 0.0125],
        )
        print(found)
        ```

    **Arguments:**

    - `tx_of_alpha`: the optimizer at a learning rate, which is traced: one compilation does for
        all of `alphas` and of `orders`, each of which then takes the gradients of the highest.
    - `objective`, `theta0`, `args`: as for [`idemodels.solve`][].
    - `time`: how long the path is, in the papers' time alpha s.
    - `alphas`: learning rates; `time / alpha` is rounded to steps.
    - `exact_time`: up to which time the optimizer's own steps stand; the flow starts there.
    - `stride`: of the flows.
    - `method`: `None` is `Markov(rtol=1e-11, atol=1e-13)`.

    **Returns:** an [`idemodels.analysis.OrderStudy`][].

    **Raises:** `ValueError` for an argument that is not as above.
    """
    alphas = np.asarray(alphas, float)
    if alphas.ndim != 1 or alphas.size == 0 or not np.all(alphas > 0):
        raise ValueError(f"Argument `alphas` must be positive numbers, but is {alphas!r}.")
    if not 0 <= exact_time < time:
        raise ValueError(f"Argument `exact_time` must lie in [0, {time}), but is {exact_time!r}.")
    theta, rest = as_parameters(theta0)
    check_objective(objective, eqx.combine(theta, rest), args)
    method = Markov(rtol=1e-11, atol=1e-13) if method is None else method
    held = Held(objective, rest)
    errors = np.full((len(orders), alphas.size), np.nan)
    size = max(1.0, max(float(jnp.max(jnp.abs(x), initial=0)) for x in jax.tree.leaves(theta)))
    highest = max(orders)
    for i, p in enumerate(orders):
        weights = jnp.asarray(weights_of(p, highest))
        given = tx_of_alpha, held, args, int(highest), int(stride), method, weights
        for j, alpha in enumerate(alphas):
            steps, skipped = round(time / alpha), round(exact_time / alpha)
            marks = np.unique(np.round(np.linspace(skipped, steps, _POINTS + 1)).astype(int))
            # as many for each learning rate, so that one program serves all
            marks = np.concatenate([marks, steps + 1 + np.arange(_POINTS + 1 - marks.size)])
            errors[i, j] = float(_largest(*given, jnp.asarray(alpha), theta, jnp.asarray(marks)))
    slopes = [order(alphas, np.where(e > _FLOOR * size, e, np.nan)) for e in errors]
    return OrderStudy(alphas, tuple(int(p) for p in orders), errors, np.array(slopes))


@program
def _largest(
    tx_of_alpha: Any,
    held: Any,
    args: Any,
    highest: int,
    stride: int,
    method: Markov,
    weights: Any,
    alpha: Any,
    theta: Any,
    marks: Any,
) -> Any:
    """The largest error at some steps of a flow that starts at the first of them.

    `weights`: those of its order, and zeros up to the highest.
    """
    dtype = dtype_of(theta)
    flow = cast(InterpolatingFlow(tx_of_alpha(alpha), highest, 0, stride, check=False), dtype)
    equation = FlowEquation.of(flow, held, args, theta)
    equation = dataclasses.replace(equation, weights=weights.astype(dtype))
    y = equation.steps(equation.start(theta), marks[0])
    state = State(None, None, y.memory)
    problem = prepare(
        equation, y.theta, state, marks.astype(dtype), True, None, jnp.zeros(0, dtype)
    )
    path = report(problem, method.run(problem, None), True)
    run = iterates(flow, equation.loss, theta, jnp.diff(marks, prepend=0))
    run = jax.tree.map(lambda x: x[1:], run)
    apart = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b), initial=0), path.theta, run)
    error = jnp.max(jnp.stack(jax.tree.leaves(apart)))
    return jnp.where(is_okay(path.result), error, jnp.nan)
