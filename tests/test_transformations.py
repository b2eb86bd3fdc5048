"""`solve` under jit, vmap and grad, on any pytree, in both precisions."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import idemodels as ide

TS = np.linspace(0.0, 40.0, 9)
# traced calls compile every leg; where the last is not what is tested, this spares its compilation
EXPLICIT = ide.Markov(dfx.Tsit5())


def counting(f):
    """`f`, and how often it was traced."""
    traces = []

    def traced(*args, **kwargs):
        traces.append(None)
        return f(*args, **kwargs)

    return traced, traces


def test_new_hyperparameters_do_not_recompile():
    last = eqx.filter_jit(eqx.debug.assert_max_traces(max_traces=1)(ide.solve))
    paths = [
        last(ide.Adam(rate, b1=b1, b2=b2, eps=eps), ide.Quadratic(), jnp.ones(1), TS)
        for rate, b1, b2, eps in [
            (0.1, 0.9, 0.99, 1e-8),
            (0.05, 0.0, 0.999, 1e-6),
            (1, 0.5, 0.9, 1),
        ]
    ]
    assert len({float(path.theta[-1, 0]) for path in paths}) == 3


def test_new_data_of_one_shape_do_not_recompile():
    def loss(theta, data):
        return jnp.mean((data[0] @ theta - data[1]) ** 2)

    objective, traces = counting(loss)
    run = eqx.filter_jit(ide.solve)
    for seed in range(3):
        x, y = jr.normal(jr.key(seed), (20, 2)), jr.normal(jr.key(10 + seed), (20,))
        run(ide.Adam(0.01), objective, jnp.zeros(2), TS, args=(x, y))
        if seed == 0:
            first = len(traces)
    assert len(traces) == first


def test_a_schedule_with_parameters_does_not_recompile():
    last = eqx.filter_jit(eqx.debug.assert_max_traces(max_traces=1)(ide.solve))
    for peak in (0.1, 0.05, 0.01):
        rate = ide.Schedule(warm_up, peak=peak, steps=10.0)
        path = last(ide.Adam(rate), ide.Quadratic(), jnp.ones(1), TS)
        # the ramp's triangle, then the plateau
        np.testing.assert_allclose(path.times[-1], peak * (5.0 + 30.0), rtol=1e-9)


def warm_up(s, peak, steps):
    return peak * jnp.minimum(s / steps, 1.0)


@pytest.mark.slow
def test_vmap_over_any_hyperparameter_of_adam_equals_the_loop():
    base = dict(learning_rate=0.1, b1=0.9, b2=0.99, eps=1e-8, l2=0.0, weight_decay=0.0)
    changed = dict(learning_rate=0.03, b1=0.0, b2=0.999, eps=0.1, l2=1.0, weight_decay=0.1)
    cases = [base] + [base | {name: value} for name, value in changed.items()]
    columns = {name: jnp.array([case[name] for case in cases]) for name in base}
    run = lambda values: ide.solve(ide.Adam(**values), ide.Quadratic(), jnp.ones(2), TS).theta
    lanes = jax.vmap(run)(columns)
    np.testing.assert_allclose(lanes, jnp.stack([run(case) for case in cases]), rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (lambda x: ide.RMSProp(0.1, x, reading="causal"), [0.9, 0.99, 0.5]),
        (lambda x: ide.AdaGrad(0.1, lr_decay=x), [0.0, 0.1, 1.0]),
    ],
    ids=["decay", "lr_decay"],
)
def test_vmap_over_the_others_hyperparameters_equals_the_loop(make, values):
    run = lambda x: ide.solve(make(x), ide.Quadratic(), jnp.ones(2), TS, method=EXPLICIT).theta
    lanes = jax.vmap(run)(jnp.array(values))
    np.testing.assert_allclose(lanes, jnp.stack([run(x) for x in values]), rtol=1e-12)


def test_vmap_over_start_and_data_equals_the_loop():
    objective = lambda theta, y: jnp.sum((theta - y) ** 2)

    def run(theta0, y):
        model = ide.RMSProp(0.1)
        return ide.solve(model, objective, theta0, TS, args=y, method=EXPLICIT).theta

    starts, data = jr.normal(jr.key(0), (3, 2)), 3.0 + jr.normal(jr.key(1), (3, 2))
    lanes = jax.vmap(run)(starts, data)
    loop = jnp.stack([run(*pair) for pair in zip(starts, data, strict=True)])
    np.testing.assert_allclose(lanes, loop, rtol=1e-12)


def test_a_bad_traced_value_marks_its_own_lane_only():
    def run(decay):
        model = ide.RMSProp(0.1, decay)
        return ide.solve(model, ide.Quadratic(), 1.0, TS, method=EXPLICIT, throw=False)

    path = jax.vmap(run)(jnp.array([0.9, 1.5, 0.99, jnp.nan]))
    assert ide.is_okay(path.result).tolist() == [True, False, True, False]
    assert (path.result == ide.RESULTS.invalid_argument).tolist() == [False, True, False, True]
    assert jnp.isnan(path.theta[1]).all()
    single = run(0.99)
    np.testing.assert_allclose(path.theta[2], single.theta, rtol=1e-12)


def test_a_bad_traced_start_and_a_failing_lane_mark_their_own_lanes_only():
    objective = lambda theta: jnp.sqrt(theta)  # its gradient is NaN below 0
    run = lambda x: ide.solve(ide.Adam(0.1), objective, x, TS, method=EXPLICIT, throw=False)
    path = jax.vmap(run)(jnp.array([-1.0, 100.0, 1.0]))
    invalid, fine, failing = (path.result == ide.RESULTS.invalid_argument).tolist()
    assert (invalid, fine, failing) == (True, False, False)
    assert ide.is_okay(path.result).tolist() == [False, True, False]


def test_a_traced_ts_that_does_not_increase_marks_its_lane():
    def run(ts):
        return ide.solve(ide.Adam(0.1), ide.Quadratic(), 1.0, ts, method=EXPLICIT, throw=False)

    path = jax.vmap(run)(jnp.array([[0.0, 1.0, 2.0], [0.0, 2.0, 1.0], [1.0, 2.0, 3.0]]))
    assert ide.is_okay(path.result).tolist() == [True, False, False]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_path_follows_the_type_of_the_parameters(dtype):
    path = ide.solve(ide.Adam(0.1, b2=0.99), ide.Quadratic(), jnp.ones(2, dtype), TS)
    arrays = (path.theta, path.loss, path.ts, path.times, path.moments)
    assert {leaf.dtype for leaf in jax.tree.leaves(arrays)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize(
    "model",
    [
        ide.Adam(0.1),
        pytest.param(ide.RMSProp(0.1, 0.99), marks=pytest.mark.slow),
        pytest.param(ide.RMSProp(0.1, 0.99, reading="causal"), marks=pytest.mark.slow),
        ide.AdaGrad(0.1),
        pytest.param(ide.AdaGrad(0.1, reading="causal"), marks=pytest.mark.slow),
    ],
    ids=lambda model: f"{type(model).__name__}-{getattr(model, 'reading', '')}",
)
def test_single_precision_finds_the_same_path(model, float32):
    with jax.enable_x64(True):
        precise = ide.solve(model, ide.Quadratic(), jnp.ones(1), TS)
    path = ide.solve(model, ide.Quadratic(), jnp.ones(1), TS)
    assert path.theta.dtype == jnp.float32
    # the default tolerance, 1e-6 a step, and some hundred roundings of 6e-8 on values up to 5
    np.testing.assert_allclose(path.theta, precise.theta, rtol=0, atol=1e-4)


def test_b2_near_one_keeps_its_digits_in_single_precision(float32):
    model = ide.Adam(0.1, b2=0.99999)
    path = ide.solve(model, ide.Quadratic(), jnp.ones(1), np.array([0.0, 1e-3, 1.0]))
    with jax.enable_x64(True):
        precise = ide.solve(model, ide.Quadratic(), jnp.ones(1), np.array([0.0, 1e-3, 1.0]))
    np.testing.assert_allclose(path.moments["v"], precise.moments["v"], rtol=1e-5)


@pytest.mark.slow
def test_an_equinox_network_goes_in_as_it_is():
    net = eqx.nn.MLP(2, 1, 8, 1, activation=jnp.tanh, key=jr.key(0))
    x = jr.normal(jr.key(1), (30, 2))
    data = x, jnp.sin(x[:, :1])

    def loss(net, data):
        return jnp.mean((jax.vmap(net)(data[0]) - data[1]) ** 2)

    model, ts = ide.Adam(0.01), np.arange(0.0, 101.0, 10.0)
    path = ide.solve(model, loss, net, ts, args=data)
    run = ide.run_discrete(model, loss, net, 100, ts=ts, args=data)
    assert path.theta.activation is net.activation
    assert path.theta.layers[0].weight.shape == (11, *net.layers[0].weight.shape)
    assert ide.compare(path, run).relative_error < 0.05
    last = jax.tree.map(lambda x: x[-1] if eqx.is_inexact_array(x) else x, path.theta)
    np.testing.assert_allclose(loss(last, data), path.loss[-1], rtol=1e-12)


@pytest.mark.slow
def test_what_does_not_float_is_held_fixed():
    theta0 = {"a": (jnp.ones(3), jnp.arange(3)), "b": jnp.array(2.0), "f": jnp.tanh, "p": 0.5}

    def loss(theta):
        x, k = theta["a"]
        return jnp.sum((theta["f"](x) * k.astype(x.dtype)) ** 2) + theta["p"] * theta["b"] ** 2

    for run in (ide.solve, eqx.filter_jit(ide.solve)):  # the integers are traced in the second
        path = run(ide.RMSProp(0.01), loss, theta0, TS)
        assert path.theta["f"] is jnp.tanh
        assert path.theta["p"] == 0.5
        assert path.theta["a"][1].tolist() == [0, 1, 2]
        assert path.theta["a"][0].shape == (9, 3)


def test_a_number_alone_is_a_parameter():
    path = ide.solve(ide.Adam(0.1), ide.Quadratic(), 1, TS)
    assert path.theta.shape == (9,)
    assert path.theta.dtype == jnp.float64


def test_mixed_types_move_in_the_widest():
    theta0 = (jnp.ones(2, jnp.float32), jnp.ones(1, jnp.float64))
    path = ide.solve(ide.Adam(0.1), lambda t: jnp.sum(t[0] ** 2) + jnp.sum(t[1] ** 2), theta0, TS)
    assert [leaf.dtype for leaf in path.theta] == [jnp.float64] * 2


@pytest.mark.parametrize(
    "schedule",
    [
        optax.cosine_decay_schedule(0.1, 40),
        pytest.param(optax.exponential_decay(0.1, 10, 0.5), marks=pytest.mark.slow),
        pytest.param(
            optax.piecewise_constant_schedule(0.1, {10: 0.5, 20: 0.1}), marks=pytest.mark.slow
        ),
        pytest.param(optax.warmup_cosine_decay_schedule(0.0, 0.1, 10, 40), marks=pytest.mark.slow),
        ide.Schedule(warm_up, peak=0.1, steps=10.0),
    ],
    ids=["cosine", "exponential", "piecewise", "warmup", "own"],
)
def test_any_schedule_is_read_at_a_continuous_step(schedule):
    ts = np.arange(41.0)
    path = ide.solve(ide.Adam(schedule), ide.Quadratic(), 1.0, ts)
    run = ide.run_discrete(ide.Adam(schedule), ide.Quadratic(), 1.0, 40)
    assert ide.compare(path, run).max_error < 0.15
    fine = np.linspace(0.0, 40.0, 400_001)
    rates = np.asarray(jax.vmap(schedule)(jnp.asarray(fine)))
    np.testing.assert_allclose(path.times[-1], np.trapezoid(rates, fine), rtol=2e-3)


@pytest.mark.parametrize("name", ["learning_rate", "b2"])
def test_a_gradient_through_the_solver_agrees_with_differences(name):
    values = {"learning_rate": 0.05, "b1": 0.9, "b2": 0.99}
    method = ide.Markov(dfx.Dopri8(), rtol=1e-9, atol=1e-11)

    def outcome(x):
        model = ide.Adam(**(values | {name: x}))
        return ide.solve(model, ide.Quadratic(), 1.0, TS, method=method).loss[-1]

    h = 1e-5 * values[name]
    difference = (outcome(values[name] + h) - outcome(values[name] - h)) / (2 * h)
    # steps carry no derivative, so it is as exact as the tolerance, times a condition of about 100
    np.testing.assert_allclose(jax.grad(outcome)(values[name]), difference, rtol=1e-5)


@pytest.mark.slow
def test_a_parameter_that_never_gets_a_gradient_has_finite_derivatives():
    objective = lambda theta: (theta[0] - 1.0) ** 2  # theta[1] is dead
    for model in (ide.Adam(0.1), ide.RMSProp(0.1, reading="causal")):
        last = lambda x, m=model: ide.solve(m, objective, x, TS, method=EXPLICIT).theta[-1].sum()
        g = jax.grad(last)(jnp.array([3.0, 2.0]))
        assert jnp.isfinite(g).all()
        np.testing.assert_allclose(g[1], 1.0, rtol=1e-12)
