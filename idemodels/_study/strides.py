"""Flows of several strides beside the paper's equation, where the discrete run swings."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.flatten_util import ravel_pytree

from .._analysis.lanczos import leading
from .._analysis.stability import stability
from .._model import AbstractModel, Adam, RMSProp
from .._plot import label
from .._second import linearized
from .base import Finding, colour, panels, plain, positive, telling

# Of optimizers with a model of the papers: what sets its preconditioner.
_TWINS = {"adam": Adam, "rmsprop": RMSProp}
_NUMBERS = ("learning_rate", "b1", "b2", "decay", "eps")
# At about so many rows the sharpness is computed; at fewer where there are many parameters.
_ROWS, _FEWER, _MANY = 60, 20, 1000


def strides(title, pairs, keys):
    """The distance of each path from its discrete run, and the sharpness along both."""
    rows, seen, keys = [], set(), telling(pairs, keys)
    with panels(title, 2) as (figure, (left, right)):
        for i, pair in enumerate(pairs):
            name, shown = label(pair.values, keys), {"color": colour(i)}
            left.semilogy(pair.discrete.path.ts, positive(pair.error), label=name, **shown)
            s, ratio = _sharpness(pair, _rows(pair.equation.path, pair.at))
            right.plot(s, ratio, **shown)
            of, own = _sharpness(pair, _rows(pair.discrete.path, np.arange(pair.at.size)))
            numbers = {key: pair.values.get(key) for key in _NUMBERS}
            if repr(numbers) not in seen:
                right.plot(of, own, color="black", ls=":", zorder=3, label="discrete run")
                seen.add(repr(numbers))
            rows.append(
                {
                    "case": plain(pair, keys),
                    "largest distance": float(np.nanmax(pair.error)),
                    "at the end": float(pair.error[-1]),
                    "sharpness over threshold, median": float(np.nanmedian(ratio)),
                    "of the discrete run": float(np.nanmedian(own)),
                    "gradients": int(pair.equation.path.stats["num_gradients"]),
                }
            )
        right.axhline(1.0, color="0.5", linewidth=0.9)
        left.set_title("distance from the discrete run")
        left.set_ylabel("largest over the parameters")
        right.set_title("sharpness over its threshold")
        right.set_ylabel(r"$\lambda_{\max}(P^{-1} H)$ / threshold")
        for axes in (left, right):
            axes.set_xlabel("optimizer step $s$")
    return Finding(rows, figure)


def _rows(path: Any, at: np.ndarray) -> Any:
    """A path at some of its rows, as arrays: not at s = 0, where memories are empty."""
    parameters = sum(x[0].size for x in jax.tree.leaves(path.theta))
    count = _FEWER if parameters > _MANY else _ROWS
    at = at[np.unique(np.linspace(1, at.size - 1, count).astype(int))]
    take = lambda tree: jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[at]), tree)
    kept = {name: take(getattr(path, name)) for name in ("ts", "theta", "loss", "moments")}
    return replace(path, times=None, stats={}, states=None, last=None, **kept)


def _sharpness(pair: Any, path: Any) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and the largest eigenvalue of the preconditioned Hessian over what is stable."""
    values = pair.values
    twin = pair.model if isinstance(pair.model, AbstractModel) else None
    name = values.get("optimizer", values["model"])
    if twin is None and name in _TWINS:
        twin = _TWINS[name](**{key: values[key] for key in _NUMBERS if key in values})
    if twin is not None:
        found = stability(twin, pair.objective, path)
        return np.asarray(found.ts), np.asarray(found.ratio)
    largest = jax.lax.map(lambda theta: _largest(pair.objective, theta), path.theta)
    momentum = values.get("momentum", 0.0)
    bound = (2 + 2 * momentum) / values["learning_rate"]
    return np.asarray(path.ts), np.asarray(largest) / bound


def _largest(objective: Any, theta: Any) -> Any:
    flat, unravel = ravel_pytree(theta)
    _, push = linearized(jax.grad(lambda x: objective(unravel(x))), flat)
    start = jr.normal(jr.key(0), flat.shape, flat.dtype)
    return leading(push, start, 1, tol=1e-3).values[0]
