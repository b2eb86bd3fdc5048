"""Orders, figures and forecasts of flows, over optimizers and objectives."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import OBJECTIVES
from test_flows import TIGHT

import idemodels as ide

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
ALPHAS = [0.025, 0.0125, 0.00625]


@pytest.mark.parametrize(
    ("objective", "orders"),
    [("quadratic", (1, 2, 3, 4)), ("double-well", (4,)), ("logistic", (4,))],
)
@pytest.mark.parametrize("name", [*FROM_THE_START, *LATER])
def test_the_error_falls_with_the_order(name, objective, orders):
    case = OBJECTIVES[objective]
    exact_time = 0.0 if name in FROM_THE_START else _LATER.get((name, objective), 0.5)
    tx_of_alpha = (FROM_THE_START | LATER)[name]
    # nadam's errors on the logistic loss fall with their order from smaller rates on
    alphas = np.array(ALPHAS) / (2 if (name, objective) == ("nadam", "logistic") else 1)
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


def test_a_known_kink_is_crossed():
    warm_up = optax.schedules.warmup_cosine_decay_schedule(0.0, 0.01, 30, 200)
    tx, errors = optax.adam(warm_up, 0.98, 0.998), []
    for kinks in ((), (30,)):
        flow = ide.InterpolatingFlow(tx, order=4, exact_steps=0, kinks=kinks, check=False)
        path = ide.solve(flow, ide.Quadratic(), 1.0, np.arange(121.0), method=TIGHT)
        run = ide.run_discrete(flow, ide.Quadratic(), 1.0, 120)
        errors.append(float(ide.compare(path, run).max_error))
    assert errors[1] < 1e-7 < 1e-5 < errors[0]
    assert path.stats["num_exact"] == 4


def test_a_kink_nobody_told_is_flagged():
    warm_up = optax.schedules.warmup_cosine_decay_schedule(0.0, 0.01, 30, 200)
    flow = ide.InterpolatingFlow(optax.adam(warm_up, 0.98, 0.998), order=4, exact_steps=0)
    with pytest.warns(UserWarning, match="`kinks`"):
        ide.solve(flow, ide.Quadratic(), 1.0, np.arange(121.0), method=TIGHT)


@pytest.mark.parametrize("objective", ["quadratic", "double-well", "logistic", "quadratic-5"])
@pytest.mark.parametrize("name", ["adam", "momentum"])
def test_the_next_order_foretells_the_error(name, objective):
    tx = {"adam": optax.adam(0.01), "momentum": optax.sgd(0.001, 0.9)}[name]
    case = OBJECTIVES[objective]
    flow = ide.InterpolatingFlow(tx, order=2, predict_error=True, check=False)
    path = ide.solve(flow, case.objective, case.theta0, np.arange(201.0), method=TIGHT)
    error = ide.compare(path, ide.run_discrete(flow, case.objective, case.theta0, 200)).error
    assert path.model_error.shape == error.shape
    assert jnp.max(error) < 1e-9 or 0.6 <= jnp.max(path.model_error) / jnp.max(error) <= 1.1


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
