"""Entries of the library, and beside them the same by hand in diffrax."""

from collections.abc import Callable
from typing import Any

STEPS, RTOL, ATOL = 100, 1e-4, 1e-7

Call = Callable[[], Any]


def cases() -> dict[str, tuple[Call, Call | None]]:
    """**Returns:** by name: an entry of the library, and what a user would write without it.

    `None` where that would be more than a right-hand side.
    """
    import diffrax as dfx
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    import idemodels as ide

    from .ordinary_problems import others

    ts, quadratic, digits = np.arange(STEPS + 1.0), ide.Quadratic(), ide.DigitsMLP()
    convolution, kernels = others(jnp.float32)["convolution"]
    rates = lambda n: np.geomspace(0.01, 0.2, n)

    def solve(model: Any, objective: Any = quadratic, theta0: Any = 1.0) -> Call:
        return lambda: ide.solve(model, objective, theta0, ts).theta

    def last(rate: Any) -> Any:
        return ide.solve(ide.Adam(rate), quadratic, 1.0, ts).loss[-1]

    def sweep(n: int) -> Call:
        over = {"learning_rate": rates(n)}
        return lambda: ide.sweep(ide.Adam(0.1), quadratic, 1.0, STEPS, over=over)

    def path(field: Callable, memories: int, objective: Any, theta0: Any) -> Any:
        """The path by hand, a function of the learning rate."""
        gradient = jax.grad(objective)
        theta0 = jax.tree.map(jnp.asarray, theta0)
        y0 = (theta0, *[jax.tree.map(jnp.zeros_like, theta0)] * memories)
        term = dfx.ODETerm(lambda s, y, rate: field(s, y, gradient(y[0]), rate))
        control = dfx.PIDController(rtol=RTOL, atol=ATOL)
        saveat = dfx.SaveAt(ts=jnp.asarray(ts))

        def run(rate: Any) -> Any:
            given = {"saveat": saveat, "stepsize_controller": control, "args": rate}
            return dfx.diffeqsolve(term, dfx.Tsit5(), 0.0, ts[-1], 0.1, y0, **given).ys[0]

        return run

    def adam(s, y, g, rate):
        r1, r2, started = 0.1, 0.001, s > 0
        correction = lambda b: jnp.where(started, 1 - b ** jnp.where(started, s, 1.0), 1.0)
        of = lambda m, v, g: (
            jnp.where(started, m / correction(0.9), g),
            jnp.sqrt(jnp.where(started, v / correction(0.999), g * g)) + 1e-8,
        )
        move = lambda m, v, g: -rate * of(m, v, g)[0] / of(m, v, g)[1]
        return (
            jax.tree.map(move, y[1], y[2], g),
            jax.tree.map(lambda m, g: r1 * (g - m), y[1], g),
            jax.tree.map(lambda v, g: r2 * (g * g - v), y[2], g),
        )

    def rmsprop(s, y, g, rate):
        move = lambda v, g: -rate * g / (jnp.sqrt(0.9 * v + 0.1 * g * g) + 1e-8)
        change = lambda v, g: 0.1 * (g * g - v)
        return jax.tree.map(move, y[1], g), jax.tree.map(change, y[1], g)

    def adagrad(s, y, g, rate):
        move = lambda G, g: -rate * g / (jnp.sqrt(G + g * g) + 1e-8)
        return jax.tree.map(move, y[1], g), jax.tree.map(lambda g: g * g, g)

    scalar = (quadratic, 1.0)
    derivative = jax.jit(jax.grad(lambda rate: path(adam, 2, *scalar)(rate)[-1] ** 2))
    plain = jax.jit(jax.vmap(path(adam, 2, *scalar)))

    def hand(field: Callable, memories: int, *given: Any, rate: float = 0.1) -> Call:
        run = jax.jit(path(field, memories, *given))
        return lambda: run(rate)

    return {
        "solve, Adam": (solve(ide.Adam(0.1)), hand(adam, 2, *scalar)),
        "solve, RMSProp": (solve(ide.RMSProp(0.1)), hand(rmsprop, 1, *scalar)),
        "solve, RMSProp causal": (solve(ide.RMSProp(0.1, reading="causal")), None),
        "solve, AdaGrad": (solve(ide.AdaGrad(0.1)), hand(adagrad, 1, *scalar)),
        "solve, Adam advanced": (
            lambda: (
                ide.solve(
                    ide.Adam(0.1, reading="advanced"), quadratic, 1.0, ts, method=ide.FixedPoint()
                ).theta
            ),
            None,
        ),
        "solve, second order": (solve(ide.SecondOrderAdam(0.1)), None),
        "solve, flow of order 2": (
            solve(ide.InterpolatingFlow(optax.sgd(0.1, momentum=0.5), order=2)),
            None,
        ),
        "gradient, Adam": (lambda: jax.grad(last)(0.1), lambda: derivative(0.1)),
        "sensitivity, Adam": (
            lambda: (
                ide.sensitivity(
                    ide.Adam(0.1), quadratic, 1.0, STEPS, wrt=("learning_rate",)
                ).equation
            ),
            lambda: derivative(0.1),
        ),
        "sweep, 16 lanes": (sweep(16), lambda: plain(rates(16))),
        "sweep, 4,096 lanes": (sweep(4096), lambda: plain(rates(4096))),
        "solve, digits": (
            solve(ide.Adam(0.01), digits, digits.theta0),
            hand(adam, 2, digits, digits.theta0, rate=0.01),
        ),
        "solve, convolution": (
            solve(ide.Adam(0.01), convolution, kernels),
            hand(adam, 2, convolution, kernels, rate=0.01),
        ),
    }
