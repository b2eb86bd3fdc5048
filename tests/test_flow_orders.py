"""Orders, figures and forecasts of flows, over optimizers and objectives."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import OBJECTIVES
from test_flows import TIGHT

import idemodels as ide
from idemodels._flow import FlowEquation, weights_of
from idemodels._solve import prepare

pytestmark = pytest.mark.slow

# Memories that last for a fixed time: 1 - b of the order of the learning rate.
B1, B2 = (lambda a: 1 - a / 0.5), (lambda a: 1 - a / 5)
FROM_THE_START = {
    "sgd": optax.sgd,
    # so that theta's velocity is of the order of a
    "momentum": lambda a: optax.sgd(2 * a * a, 1 - 2 * a),
    "adam": lambda a: optax.adam(a, B1(a), B2(a)),
    "adamw": lambda a: optax.adamw(a, B1(a), B2(a), weight_decay=0.1),
    "adabelief": lambda a: optax.adabelief(a, B1(a), B2(a)),
}
LATER = {
    "nadam": lambda a: optax.nadam(a, B1(a), B2(a)),
    "rmsprop": lambda a: optax.rmsprop(a, B1(a)),
    "adagrad": optax.adagrad,
    "amsgrad": lambda a: optax.amsgrad(a, B1(a), B2(a)),
}
# In the double well amsgrad has a kink where its second moment begins to fall: it starts later.
_LATER = {("amsgrad", "double-well"): 1.2}
ALPHAS = 0.025 / 2.0 ** np.arange(3)
# Nadam's errors on the logistic loss fall with their order from smaller rates on; that of adagrad's
# order 3 in the double well passes through a dip, over which a longer row of rates goes.
_ALPHAS = {
    ("nadam", "logistic"): ALPHAS / 2,
    ("adagrad", "double-well"): 0.025 / 2.0 ** np.arange(5),
}


@pytest.mark.parametrize("objective", ["quadratic", "double-well", "logistic"])
@pytest.mark.parametrize("name", [*FROM_THE_START, *LATER])
def test_the_error_falls_with_the_order(name, objective):
    case, orders = OBJECTIVES[objective], (1, 2, 3, 4)
    exact_time = 0.0 if name in FROM_THE_START else _LATER.get((name, objective), 0.5)
    tx_of_alpha = (FROM_THE_START | LATER)[name]
    alphas = _ALPHAS.get((name, objective), ALPHAS)
    found = ide.analysis.order_study(
        tx_of_alpha, case.objective, case.theta0, 2.0, alphas, orders, exact_time=exact_time
    )
    seen = np.isfinite(found.slopes)
    assert np.all(found.slopes[seen] >= np.array(orders)[seen] - 0.3), found
    # where there is no slope, the errors are rounding
    assert np.all(found.errors[~seen] < 1e-9), found


def test_the_figures_of_adam_on_the_quadratic():
    tx_of_alpha = FROM_THE_START["adam"]
    given = tx_of_alpha, ide.Quadratic(), 1.0, 2.0, [0.0125, 0.005]
    found = ide.analysis.order_study(*given, (2, 3, 4))
    assert found.errors[2, 0] <= 1e-7
    assert found.errors[0, 1] <= 3e-5
    assert found.errors[1, 1] <= 3e-7


WARM_UP = optax.schedules.warmup_cosine_decay_schedule(0.0, 0.01, 30, 200)


def untold(schedule):
    """Adam with a schedule of a float of its own, which is no counter."""

    def update(updates, state, params=None):
        del params
        return jax.tree.map(lambda u: schedule(state) * u, updates), state + 1.0

    by_time = optax.GradientTransformation(lambda params: jnp.zeros(()), update)
    return optax.chain(optax.scale_by_adam(0.98, 0.998), by_time, optax.scale(-1.0))


def test_a_kink_is_crossed_whether_told_or_found():
    told, found = untold(WARM_UP), optax.adam(WARM_UP, 0.98, 0.998)
    errors = []
    for tx, kinks in ((told, ()), (told, (30,)), (found, ()), (found, (30,))):
        flow = ide.InterpolatingFlow(tx, order=4, exact_steps=0, kinks=kinks, check=False)
        path = ide.solve(flow, ide.Quadratic(), 1.0, np.arange(121.0), method=TIGHT)
        run = ide.run_discrete(flow, ide.Quadratic(), 1.0, 120)
        errors.append(float(ide.compare(path, run).max_error))
    assert max(errors[1:]) < 1e-7 < 1e-5 < errors[0], errors
    assert path.stats["num_exact"] == 4


def test_a_kink_nobody_told_is_flagged():
    flow = ide.InterpolatingFlow(untold(WARM_UP), order=4, exact_steps=0)
    with pytest.warns(UserWarning, match="`kinks`"):
        ide.solve(flow, ide.Quadratic(), 1.0, np.arange(121.0), method=TIGHT)


# A learning rate, and optimizers with decays of a fixed number of steps and of a fixed time.
A = 0.01
FORETOLD = {
    "adam": optax.adam(A),
    "momentum": optax.sgd(0.1 * A, 0.9),
    "adam, fixed time": FROM_THE_START["adam"](A),
    "momentum, fixed time": FROM_THE_START["momentum"](A),
}
# On Rosenbrock's function it does not hold for momentum at these rates, where multipliers of its
# step are .88 and .58 away from 1: what is foretold is .41, .93 and 1.23 of the errors of order 1,
# 2 and 3, with a fixed time 3.3 of order 2's, and with a fifth of A still 1.104. It is held at
# smaller rates there.
_FORETOLD = {
    ("momentum", "rosenbrock"): optax.sgd(0.01 * A, 0.9),
    ("momentum, fixed time", "rosenbrock"): FROM_THE_START["momentum"](0.1 * A),
}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", FORETOLD)
def test_the_next_order_foretells_the_error(name, objective):
    case, ts = OBJECTIVES[objective], np.arange(201.0)
    tx = _FORETOLD.get((name, objective), FORETOLD[name])
    paths = flows_of_orders(ide.InterpolatingFlow(tx, 4), case.objective, case.theta0, ts)
    run = ide.run_discrete(tx, case.objective, case.theta0, 200).theta
    for p, (path, finer) in enumerate(itertools.pairwise(paths), 1):
        error, foretold = (float(jnp.max(jnp.abs(x - path))) for x in (run, finer))
        assert error < 1e-9 or 0.6 <= foretold / error <= 1.1, (p, error, foretold)


def flows_of_orders(flow, objective, theta0, ts, method=TIGHT):
    """The paths of the flows of every order up to that of `flow`, by one program."""
    equation = FlowEquation.of(flow, objective, None, theta0)

    @jax.jit
    def path(weights):
        changed = dataclasses.replace(equation, weights=weights)
        problem = prepare(changed, theta0, None, jnp.asarray(ts), True, None, jnp.zeros(0))
        return method.run(problem, None).kept["state"].theta

    orders = range(1, flow.order + 1)
    return [path(jnp.asarray(weights_of(p, flow.order))) for p in orders]


def test_a_flow_foretells_its_error_on_request():
    case = OBJECTIVES["logistic"]
    flow = ide.InterpolatingFlow(optax.adam(A), predict_error=True, check=False)
    path = ide.solve(flow, case.objective, case.theta0, np.arange(201.0), method=TIGHT)
    third = flow.changed(order=3, predict_error=False)
    given = case.objective, case.theta0, np.arange(201.0)
    _, second, third = flows_of_orders(third, *given)
    foretold = jnp.max(jnp.abs(third - second), axis=1)
    assert path.model_error is not None
    np.testing.assert_allclose(path.model_error, foretold, rtol=0, atol=1e-9)


def test_stride_2_follows_a_network_at_the_edge_of_stability():
    """A tanh network 1-32-1 on sin 3x in [-2, 2], under RMSProp from step 200 to 600.

    The run amplifies rounding: from starts that differ by 1e-12 the errors are spread over a factor
    of ten and more, so that those of one run say little. Of one, on data that are not known, they
    were 5.4e-2, 7.0e-3 and 2.6e-3 for orders 1 to 3: these lie among the others.
    """
    draw, starts = np.random.default_rng(0), 16
    shapes = {"w": (1, 32), "v": (32, 1)}
    weights = {k: draw.normal(size=n) / np.sqrt(n[0]) for k, n in shapes.items()}
    shaken = {
        k: jnp.asarray(x * (1 + 1e-12 * draw.normal(size=(starts, *x.shape))))
        for k, x in weights.items()
    }
    theta0 = shaken | {"b": jnp.zeros((starts, 32)), "c": jnp.zeros((starts, 1))}
    x = jnp.linspace(-2.0, 2.0, 20)[:, None]

    def loss(t):
        made = jnp.tanh(x @ t["w"] + t["b"][None]) @ t["v"] + t["c"][None]
        return jnp.mean((made - jnp.sin(3 * x)) ** 2)

    tx, ts = optax.rmsprop(0.01, 0.99), np.arange(601.0)
    method = ide.Markov(rtol=1e-6, atol=1e-8, max_steps=2000)

    def apart(path, run):
        most = lambda tree: jnp.nanmax(jnp.stack([jnp.nanmax(jnp.abs(x)) for x in tree.values()]))
        way = most({k: run[k] - run[k][:1] for k in run})
        return most({k: path[k] - run[k] for k in run}) / way

    @jax.jit
    @jax.vmap
    def errors_of(theta0):
        run = ide.run_discrete(tx, loss, theta0, 600).theta
        flow = ide.InterpolatingFlow(tx, 3, exact_steps=200, stride=2, check=False)
        paths = flows_of_orders(flow, loss, theta0, ts, method)
        beside = flow.changed(stride=1, order=2)
        failing = ide.solve(beside, loss, theta0, ts, method=method, throw=False).theta
        return jnp.stack([apart(path, run) for path in [*paths, failing]])

    errors = np.asarray(errors_of(theta0))
    known = np.array([5.4e-2, 7.0e-3, 2.6e-3])
    one, two, three, stride_1 = np.median(errors, axis=0)
    assert one > 2 * two > 2 * three
    assert np.all(np.min(errors[:, :3], axis=0) <= 1.5 * known), errors
    assert np.all(known <= 1.5 * np.max(errors[:, :3], axis=0)), errors
    assert stride_1 > 0.3 > 3 * one


def test_a_smooth_path_does_not_warn():
    ts = np.arange(0.0, 61.0, 20.0)
    path = ide.solve(ide.InterpolatingFlow(optax.adam(0.02)), ide.Quadratic(), 1.0, ts)
    assert path.stats["num_check_gradients"] > 0


def test_what_a_run_says_of_smoothness():
    smooth = ide.analysis.smoothness(optax.adam(0.01), ide.Quadratic(), 1.0, 300)
    assert smooth.smooth
    assert smooth.roughness < 1e-3
    # the multiplier of gradient descent on a parabola, 1 - 2 * .9, exactly
    swings = ide.analysis.smoothness(optax.sgd(0.9), ide.Quadratic(), 1.0, 60)
    assert not swings.smooth
    np.testing.assert_allclose(swings.spread, 1.8, rtol=1e-9)
    assert ide.analysis.smoothness(optax.sgd(0.9), ide.Quadratic(), 1.0, 60, stride=2).smooth


def test_sensitivities_of_a_flow_are_those_of_the_discrete_run():
    tx = optax.inject_hyperparams(optax.adam)(learning_rate=0.5, b2=0.9)
    flow = ide.InterpolatingFlow(tx, 3, hyperparams={"learning_rate": 0.01, "b2": 0.99})
    wrt = ("learning_rate", "b2", "theta0")
    found = ide.sensitivity(flow, ide.Quadratic(), 1.0, 100, wrt=wrt)
    assert all(apart < 1e-3 for apart in found.apart.values()), str(found)


def test_a_sweep_of_a_flow():
    tx = optax.inject_hyperparams(optax.adam)(learning_rate=0.5)
    flow = ide.InterpolatingFlow(tx, hyperparams={"learning_rate": 0.01}, check=False)
    over = {"learning_rate": [0.01, 0.02], "objective.minimum": [2.0, 3.0]}
    found = ide.sweep(flow, ide.Quadratic(), 1.0, 60, over, progress=False)
    assert found.max_error.shape == (2, 2)
    assert float(found.max_error.max()) < 1e-3
    assert (found.status == 0).all()
