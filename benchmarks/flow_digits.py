"""The digits network over many steps: how many gradients a flow takes for its error."""

from typing import Any

from .records import number, rows

_STEPS, _MARKS, _EXACT = 5000, 51, 100
_RATES = (1e-4, 1e-3)
# Order of the flow, or None for the experiment of `flow_held`; solver, rtol, atol.
_WAYS = (
    (2, "Bosh3", 1e-3, 1e-5),
    (3, "Tsit5", 1e-4, 1e-6),
    (None, None, 1e-4, 1e-6),
    (None, None, 1e-5, 1e-7),
)


def records() -> list[dict[str, Any]]:
    """**Returns:** for each learning rate and way, gradients and error.

    The error is the largest at 51 steps from 0 to 5000, over parameters, relative to the largest
    distance of the discrete run from its start.
    """
    import jax
    import numpy as np
    import optax
    from jax.flatten_util import ravel_pytree

    import idemodels as ide

    objective = ide.DigitsMLP()
    theta0, unravel = ravel_pytree(objective.theta0)
    loss = lambda x: objective(unravel(x))
    ts, found = np.linspace(0, _STEPS, _MARKS), []
    for rate in _RATES:
        tx = optax.adam(rate)
        run = np.asarray(ide.run_discrete(tx, loss, theta0, _STEPS, ts=ts).theta)
        extent = np.max(np.abs(run - run[0]))
        for way in _WAYS:
            path, made, result = _path(tx, loss, theta0, ts, *way)
            error = float(np.max(np.abs(path - run)) / extent)
            found.append(
                {
                    "learning_rate": rate,
                    "order": way[0],
                    "solver": way[1],
                    "rtol": way[2],
                    "exact_steps": _EXACT if way[0] else None,
                    "gradients": made,
                    "error": float(f"{error:.3g}") if np.isfinite(error) else None,
                    "result": result,
                }
            )
            last = found[-1]
            print(f"digits {rate:g} {way[:3]} {made} {last['error']} {result}", flush=True)
        jax.clear_caches()
    return found


def _path(
    tx: Any, loss: Any, theta0: Any, ts: Any, order: Any, solver: Any, rtol: float, atol: float
) -> tuple[Any, int, str]:
    import diffrax as dfx
    import jax
    import numpy as np

    import idemodels as ide

    from .flow_held import held

    if order is None:
        found = held(tx, jax.grad(loss), theta0, ts, rtol, atol)
        return found.path, found.gradients, ""
    flow = ide.InterpolatingFlow(tx, order, exact_steps=_EXACT, check=False)
    method = ide.Markov(getattr(dfx, solver)(), rtol=rtol, atol=atol)
    path = ide.solve(flow, loss, theta0, ts, method=method, throw=False)
    said = ide.RESULTS[path.result]
    return np.asarray(path.theta), int(path.stats["num_gradients"]), said


def table(page: dict[str, Any]) -> str:
    """**Returns:** a row for each way and learning rate, in Markdown."""
    head = ("learning rate", "way", "rtol", "gradients", "error", "")
    return rows(head, map(_row, page["digits"]))


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    p, name = record["order"], record["solver"]
    way = f"flow of order {p}, {name}" if p else "its own steps, past gradients"
    return (
        f"{record['learning_rate']:g}",
        way,
        f"{record['rtol']:g}",
        str(record["gradients"]),
        number(record["error"], ".1e"),
        record["result"],
    )
