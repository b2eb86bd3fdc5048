"""Entries of the library, and beside them the same by hand in diffrax."""

from collections.abc import Callable
from typing import Any

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import idemodels as ide

from .ordinary_problems import others

STEPS, RTOL, ATOL = 100, 1e-4, 1e-7
_TS = np.arange(STEPS + 1.0)
_SCALAR = (ide.Quadratic(), 1.0)

Call = Callable[[], Any]


def cases() -> dict[str, tuple[Call, Call | None]]:
    """**Returns:** by name: an entry of the library, and what a user would write without it.

    `None` where that would be more than a right-hand side.
    """
    digits, convolution = ide.DigitsMLP(), others(jnp.float32)["convolution"]
    network = (digits, digits.theta0)
    plain = jax.jit(jax.vmap(_path(_adam, 2, *_SCALAR)))
    derivative = jax.jit(jax.grad(lambda rate: _path(_adam, 2, *_SCALAR)(rate)[-1] ** 2))
    return {
        "solve, Adam": (_solve(ide.Adam(0.1)), _hand(_adam, 2)),
        "solve, RMSProp": (_solve(ide.RMSProp(0.1)), _hand(_rmsprop, 1)),
        "solve, RMSProp causal": (_solve(ide.RMSProp(0.1, reading="causal")), None),
        "solve, AdaGrad": (_solve(ide.AdaGrad(0.1)), _hand(_adagrad, 1)),
        "solve, Adam advanced": (
            _solve(ide.Adam(0.1, reading="advanced"), method=ide.FixedPoint()),
            None,
        ),
        "solve, second order": (_solve(ide.SecondOrderAdam(0.1)), None),
        "solve, flow of order 2": (
            _solve(ide.InterpolatingFlow(optax.sgd(0.1, momentum=0.5), order=2)),
            None,
        ),
        "gradient, Adam": (lambda: jax.grad(_last_loss)(0.1), lambda: derivative(0.1)),
        "sensitivity, Adam": (_sensitivity, lambda: derivative(0.1)),
        "sweep, 16 lanes": (_sweep(16), lambda: plain(_rates(16))),
        "sweep, 4,096 lanes": (_sweep(4096), lambda: plain(_rates(4096))),
        "solve, digits": (
            _solve(ide.Adam(0.01), *network),
            _hand(_adam, 2, *network, rate=0.01),
        ),
        "solve, convolution": (
            _solve(ide.Adam(0.01), *convolution),
            _hand(_adam, 2, *convolution, rate=0.01),
        ),
    }


def _solve(model: Any, objective: Any = _SCALAR[0], theta0: Any = 1.0, method: Any = None) -> Call:
    return lambda: ide.solve(model, objective, theta0, _TS, method=method).theta


def _last_loss(rate: Any) -> Any:
    return ide.solve(ide.Adam(rate), *_SCALAR, _TS).loss[-1]


def _sensitivity() -> Any:
    return ide.sensitivity(ide.Adam(0.1), *_SCALAR, STEPS, wrt=("learning_rate",)).equation


def _rates(lanes: int) -> np.ndarray:
    return np.geomspace(0.01, 0.2, lanes)


def _sweep(lanes: int) -> Call:
    over = {"learning_rate": _rates(lanes)}
    return lambda: ide.sweep(ide.Adam(0.1), *_SCALAR, STEPS, over=over)


def _hand(
    field: Callable, memories: int, objective: Any = _SCALAR[0], theta0: Any = 1.0, rate=0.1
) -> Call:
    run = jax.jit(_path(field, memories, objective, theta0))
    return lambda: run(rate)


def _path(field: Callable, memories: int, objective: Any, theta0: Any) -> Callable[[Any], Any]:
    """The path by hand, a function of the learning rate."""
    gradient = jax.grad(objective)
    theta0 = jax.tree.map(jnp.asarray, theta0)
    y0 = (theta0, *[jax.tree.map(jnp.zeros_like, theta0)] * memories)
    term = dfx.ODETerm(lambda s, y, rate: field(s, y, gradient(y[0]), rate))
    control = dfx.PIDController(rtol=RTOL, atol=ATOL)
    saveat = dfx.SaveAt(ts=jnp.asarray(_TS))

    def run(rate):
        given = {"saveat": saveat, "stepsize_controller": control, "args": rate}
        return dfx.diffeqsolve(term, dfx.Tsit5(), 0.0, _TS[-1], 0.1, y0, **given).ys[0]

    return run


def _adam(s: Any, y: Any, g: Any, rate: Any) -> Any:
    started = s > 0
    correction = lambda b: jnp.where(started, 1 - b ** jnp.where(started, s, 1.0), 1.0)

    def move(m, v, g):
        first = jnp.where(started, m / correction(0.9), g)
        second = jnp.where(started, v / correction(0.999), g * g)
        return -rate * first / (jnp.sqrt(second) + 1e-8)

    return (
        jax.tree.map(move, y[1], y[2], g),
        jax.tree.map(lambda m, g: 0.1 * (g - m), y[1], g),
        jax.tree.map(lambda v, g: 0.001 * (g * g - v), y[2], g),
    )


def _rmsprop(s: Any, y: Any, g: Any, rate: Any) -> Any:
    del s
    move = lambda v, g: -rate * g / (jnp.sqrt(0.9 * v + 0.1 * g * g) + 1e-8)
    return jax.tree.map(move, y[1], g), jax.tree.map(lambda v, g: 0.1 * (g * g - v), y[1], g)


def _adagrad(s: Any, y: Any, g: Any, rate: Any) -> Any:
    del s
    move = lambda G, g: -rate * g / (jnp.sqrt(G + g * g) + 1e-8)
    return jax.tree.map(move, y[1], g), jax.tree.map(lambda g: g * g, g)
