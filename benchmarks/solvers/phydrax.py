"""phydrax: a network trained on the equation's residual at points of the whole interval."""

import numpy as np

from ..problems import Volterra
from . import Solved

PACKAGES = ("phydrax", "jax", "equinox", "optax", "numpy")
_SETTINGS = [{"iterations": 2000, "points": 64}, {"iterations": 8000, "points": 64}]
SETTINGS = dict.fromkeys(("volterra", "abel", "closure", "adam", "advanced"), _SETTINGS)
REFUSED: dict[str, str] = {}


def prepare(problem, setting):
    """A tanh network of 2 layers of 16, its start by a penalty, optax.adam with a cosine schedule.

    Its convolutions are Gauss-Legendre sums of 48 points; for a singular kernel, which those cannot
    do, sums over 48 points of its sampler.
    """
    import jax
    import jax.numpy as jnp
    import optax
    import phydrax as phx
    from phydrax.operators.integral import time_convolution

    linear = isinstance(problem, Volterra)
    end = float(problem.ts[-1]) + (0.0 if linear else 1.0)
    domain = phx.domain.TimeInterval(0.0, end)
    theta0 = 1.0 if linear else problem.theta0
    dt = lambda u: phx.operators.dt_n(u, var="t", order=1)

    def residual(u):
        if linear and problem.kernel == "exponential":
            kernel = lambda s: problem.parameter * jnp.exp(-problem.parameter * s)
            return dt(u) + problem.rate * time_convolution(kernel, u)
        if linear:
            a = problem.parameter
            kernel = lambda s: s ** (a - 1.0) / jnp.exp(jax.scipy.special.gammaln(a))
            m = time_convolution(kernel, u, mode="gmc_1d", kernel_exponent=1.0 - a)
            return dt(u) + problem.rate * m
        g = problem.curvature * (u - problem.minimum)
        memory = lambda b, x: time_convolution(lambda s: (1.0 - b) * jnp.exp((b - 1.0) * s), x)
        v = memory(problem.b, g * g)
        if problem.kind == "adam":
            debias = lambda t: jnp.sqrt(1.0 - problem.b**t) / (1.0 - problem.b1**t)
            g = memory(problem.b1, g) * domain.Function("t")(debias)
        elif problem.kind == "advanced":
            v = phx.operators.delay_operator(v, -1.0)
        else:
            v = problem.b * v + (1.0 - problem.b) * (g * g)
        return dt(u) + problem.alpha * g / ((v + 1e-24) ** 0.5 + problem.eps)

    def run():
        net = phx.nn.MLP(
            in_size="scalar",
            out_size="scalar",
            width_size=16,
            depth=2,
            activation=jnp.tanh,
            key=jax.random.key(0),
        )
        # Adam's quotient is 0/0 at 0
        times = jnp.linspace(0.0, problem.ts[-1], setting["points"] + 1)
        times = times[1:] if not linear and problem.kind == "adam" else times
        equation = phx.constraints.DiscreteODEConstraint("u", domain, residual, times=times)
        begin = phx.constraints.InitialODEConstraint("u", domain, func=theta0, weight=10.0)
        solver = phx.solver.FunctionalSolver(
            functions={"u": domain.Model("t")(net)},
            constraints=[equation, begin],
        )
        schedule = optax.cosine_decay_schedule(1e-2, setting["iterations"])
        # the interval's ends are leaves of the function too, and would be trained
        ends = lambda params: jax.tree.map_with_path(
            lambda path, _: ".domain" in jax.tree_util.keystr(path), params
        )
        adam = optax.chain(optax.adam(schedule), optax.masked(optax.set_to_zero(), ends))
        # a plain pair of functions: with any other it searches along lines, uncompiled
        adam = optax.GradientTransformation(*adam)
        solver = solver.solve(
            num_iter=setting["iterations"], optim=adam, log_every=0, log_constraints=False
        )
        u = solver.functions["u"]
        theta = jax.vmap(lambda t: u.func(t, key=None))
        return Solved(np.asarray(theta(jnp.asarray(problem.ts))).ravel())

    return run
