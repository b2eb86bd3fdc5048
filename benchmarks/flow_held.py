"""An optimizer's own steps under a polynomial of past gradients: what a flow could cost.

A flow by a Runge-Kutta method is bounded by how fast the optimizer's memory forgets, and takes p
gradients for each evaluation. Here the memory is exact, linear or not, since the optimizer's own
update makes every step; only the gradient between two true ones is a polynomial through those of
the past. It is the predictor and corrector of `ExponentialMultistep` on the discrete step in the
place of the equation, and takes one gradient for each stretch of steps. An experiment: eager, on
one path, without derivatives.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

# The past gradients that foretell, and the optimizer's own steps before them.
_PAST, _EXACT = 2, 20
# A stretch grows at most so much over the one before it, and shrinks at most so much.
_GROWTH, _SHRINK, _SAFETY = 2.0, 0.2, 0.9


class Held(NamedTuple):
    """What came out.

    - `path`: the parameters at each mark, `(M, n)`.
    - `gradients`, `stretches`, `rejected`: how many there were.
    """

    path: np.ndarray
    gradients: int
    stretches: int
    rejected: int


def held(
    tx: optax.GradientTransformation,
    gradient: Callable[[Any], Any],
    theta0: Any,
    marks: Any,
    rtol: float,
    atol: float,
) -> Held:
    """Follows an optimizer from step 0 to the last of `marks`.

    **Arguments:**

    - `gradient`: of the parameters, one array of shape `(n,)`; the gradient there.
    - `theta0`: the parameters at the start, `(n,)`.
    - `marks`: steps, from 0 on, increasing.
    - `rtol`, `atol`: what a stretch may add in error to the parameters and to each array of the
        optimizer's state, by the root of the mean square; `atol` in units of the array's size after
        the optimizer's own steps.
    """

    def march(theta, state, nodes, gradients, steps):
        def step(k, carry):
            g = _lagrange(nodes, k.astype(nodes.dtype)) @ gradients
            updates, state = tx.update(g, carry[1], carry[0])
            return optax.apply_updates(carry[0], updates), state

        return jax.lax.fori_loop(0, steps, step, (theta, state))

    march, gradient = jax.jit(march), jax.jit(gradient)
    marks, rows = [int(mark) for mark in marks], {}
    s, theta, state, past = 0, theta0, tx.init(theta0), []
    made = stretches = rejected = 0
    units: list[float] = []
    stretch, last = 1.0, marks[-1]
    while True:
        if s <= _EXACT:
            past, made = [*past, (s, gradient(theta))][-_PAST:], made + 1
        steps = 1 if s < _EXACT else max(1, min(round(stretch), last - s))
        before = _stacked(past[-1:] if s < _EXACT else past, s)
        one = march(theta, state, *before, steps)
        error, after = 0.0, before
        if s >= _EXACT:
            units = units or [max(_rms(x), np.finfo(float).tiny) for x in _arrays(state)]
            past_and_new = [*past, (s + steps, gradient(one[0]))]
            made, stretches = made + 1, stretches + 1
            after = _stacked(past_and_new, s)
            lower = march(theta, state, *_stacked(past_and_new[1:], s), steps)
            one = march(theta, state, *after, steps)
            error = _error((theta, state), one, lower, units, rtol, atol)
            factor = _SAFETY * max(error, 1e-10) ** (-1 / (_PAST + 1))
            if steps > 1 and not error <= 1.0:
                rejected += 1
                stretch = min(steps - 1.0, steps * max(_SHRINK, factor if error < np.inf else 0.0))
                continue
            stretch = max(1.0, steps * min(_GROWTH, factor))
            stretch = 2.0 if stretch < 2.0 and error < 0.5 else stretch  # or 1 would stay 1
            past = past_and_new[-_PAST:]
        for mark in (m for m in marks if s <= m < s + steps):
            rows[mark] = march(theta, state, *after, mark - s)[0]
        (theta, state), s = one, s + steps
        if s >= last:
            rows[last] = theta
            path = np.stack([np.asarray(rows[mark]) for mark in marks])
            return Held(path, made, stretches, rejected)


def _stacked(past: list[tuple[int, Any]], s: int) -> tuple[Any, Any]:
    """Where gradients were taken, from `s` on, and the gradients: `(k,)` and `(k, n)`."""
    return jnp.array([float(at - s) for at, _ in past]), jnp.stack([g for _, g in past])


def _lagrange(nodes: Any, at: Any) -> Any:
    """The weights of the values at `nodes` in the polynomial through them, `(k,)`."""
    itself = jnp.eye(nodes.size, dtype=bool)
    gaps = jnp.where(itself, 1.0, nodes[:, None] - nodes[None])
    return jnp.prod(jnp.where(itself, 1.0, (at - nodes)[None] / gaps), axis=1)


def _error(start: Any, one: Any, lower: Any, units: list[float], rtol: float, atol: float) -> float:
    """The difference of two ends of a stretch, in units of the tolerance; the worst array."""
    scale = lambda unit, a, b: atol * unit + rtol * max(_rms(a), _rms(b))
    found = [_rms(one[0] - lower[0]) / scale(1.0, start[0], one[0])]
    arrays = zip(*(_arrays(x[1]) for x in (start, one, lower)), units, strict=True)
    found += [_rms(b - c) / scale(unit, a, b) for a, b, c, unit in arrays]
    return float(np.max(np.nan_to_num(found, nan=np.inf)))


def _arrays(state: Any) -> list[Any]:
    leaves = jax.tree.leaves(state)
    return [x for x in leaves if x.ndim > 0 and jnp.issubdtype(x.dtype, jnp.floating)]


def _rms(x: Any) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(x)))))
