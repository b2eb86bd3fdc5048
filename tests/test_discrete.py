"""The discrete side against textbook recursions, and as a part of ordinary optax programs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import idemodels as ide

CURVATURE, MINIMUM = np.array([1.0, 3.0, 10.0]), np.array([1.0, -0.5, 0.3])
OBJECTIVE, THETA0 = ide.Quadratic(CURVATURE, MINIMUM), np.array([0.2, 1.5, -1.0])
STEPS = 60
ULP = np.finfo(float).eps


def gradient(theta):
    return CURVATURE * (theta - MINIMUM)


def adam(g, k, m, v, b1, b2, eps=1e-8):
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    return m / (1 - b1**k) / (np.sqrt(v / (1 - b2**k)) + eps), m, v


def rmsprop(g, k, m, v, b, eps=1e-8):
    v = b * v + (1 - b) * g**2
    return g / (np.sqrt(v) + eps), m, v


def adagrad(g, k, m, G, lr_decay, eps=1e-8):
    G = G + g**2
    return g / (1 + (k - 1) * lr_decay) / (np.sqrt(G) + eps), m, G


def recursion(update, rate, l2=0.0, weight_decay=0.0, start=THETA0, steps=STEPS):
    """Iterates and both moments, 0 to `steps`; `rate(k)` is the learning rate of step k from 0."""
    theta, m, v = start.copy(), 0.0 * start, 0.0 * start
    rows = [(theta, m, v)]
    for k in range(steps):
        direction, m, v = update(gradient(theta) + 0.5 * l2 * theta, k + 1, m, v)
        theta = theta - rate(k) * (direction + weight_decay * theta)
        rows.append((theta, m, v))
    return [np.array(column) for column in zip(*rows, strict=True)]


def decaying(s):
    return 0.1 / (1.0 + 0.05 * s)


CASES = {
    "adam": (ide.Adam(0.1), lambda *x: adam(*x, 0.9, 0.999), {}),
    "adam-b1-0": (ide.Adam(0.1, 0.0, 0.99), lambda *x: adam(*x, 0.0, 0.99), {}),
    "adam-eps": (ide.Adam(0.1, eps=0.1), lambda *x: adam(*x, 0.9, 0.999, 0.1), {}),
    "adam-matched": (ide.Adam(0.1, rate="matched"), lambda *x: adam(*x, 0.9, 0.999), {}),
    "adam-l2": (ide.Adam(0.1, l2=0.3), lambda *x: adam(*x, 0.9, 0.999), {"l2": 0.3}),
    "adam-weight-decay": (
        ide.Adam(0.1, weight_decay=0.2),
        lambda *x: adam(*x, 0.9, 0.999),
        {"weight_decay": 0.2},
    ),
    "adam-both": (
        ide.Adam(0.1, l2=0.3, weight_decay=0.2),
        lambda *x: adam(*x, 0.9, 0.999),
        {"l2": 0.3, "weight_decay": 0.2},
    ),
    "adam-schedule": (ide.Adam(decaying), lambda *x: adam(*x, 0.9, 0.999), {"rate": decaying}),
    "rmsprop": (ide.RMSProp(0.1), lambda *x: rmsprop(*x, 0.9), {}),
    "rmsprop-causal": (ide.RMSProp(0.1, reading="causal"), lambda *x: rmsprop(*x, 0.9), {}),
    "rmsprop-decay-0": (ide.RMSProp(0.1, 0.0), lambda *x: rmsprop(*x, 0.0), {}),
    "rmsprop-l2-weight-decay": (
        ide.RMSProp(0.1, 0.99, l2=0.3, weight_decay=0.2),
        lambda *x: rmsprop(*x, 0.99),
        {"l2": 0.3, "weight_decay": 0.2},
    ),
    "rmsprop-schedule": (ide.RMSProp(decaying), lambda *x: rmsprop(*x, 0.9), {"rate": decaying}),
    "adagrad": (ide.AdaGrad(0.1), lambda *x: adagrad(*x, 0.0), {}),
    "adagrad-eps": (ide.AdaGrad(0.1, 0.1), lambda *x: adagrad(*x, 0.0, 0.1), {}),
    "adagrad-lr-decay": (ide.AdaGrad(0.1, lr_decay=0.02), lambda *x: adagrad(*x, 0.02), {}),
    "adagrad-l2-weight-decay": (
        ide.AdaGrad(0.1, l2=0.3, weight_decay=0.2),
        lambda *x: adagrad(*x, 0.0),
        {"l2": 0.3, "weight_decay": 0.2},
    ),
    "adagrad-schedule": (ide.AdaGrad(decaying), lambda *x: adagrad(*x, 0.0), {"rate": decaying}),
}


def reference(name):
    """The recursion's rows, and for each how many ulps one ulp of the start has become."""
    _, update, options = CASES[name]
    options = {"rate": lambda k: 0.1, **options}
    rows = recursion(update, **options)
    nudged = recursion(update, **options, start=np.nextafter(THETA0, np.inf))
    one = np.spacing(THETA0).max()
    growth = max(1.0, max(np.abs(a - b).max() for a, b in zip(rows, nudged, strict=True)) / one)
    return rows, growth


@pytest.mark.parametrize("name", CASES)
def test_run_discrete_is_the_textbook_recursion(name):
    rows, growth = reference(name)
    run = ide.run_discrete(CASES[name][0], OBJECTIVE, jnp.asarray(THETA0), STEPS)
    np.testing.assert_array_equal(run.ts, np.arange(STEPS + 1))
    expected = dict(zip(("theta", "m", "v"), rows, strict=True))
    expected["G"] = expected["v"]
    found = {"theta": run.theta, **run.moments}
    assert set(found) == {"theta", *CASES[name][0].memories()}
    # rounding of some thousand operations, each as large as the nudge of one ulp
    for key, value in found.items():
        np.testing.assert_allclose(value, expected[key], rtol=0, atol=1e-12 * growth, err_msg=key)
    away = rows[0] - MINIMUM
    loss = np.sum(0.5 * CURVATURE * away**2, axis=1)
    np.testing.assert_allclose(run.loss, loss, rtol=0, atol=1e-11 * growth)


@pytest.mark.parametrize("ts", [[0, 10, 20], [0, 1, 5, 6, 60], [7, 9, 30], [60], [0]], ids=str)
def test_kept_iterates_are_those_of_the_whole_run(ts):
    whole = ide.run_discrete(ide.Adam(0.1), OBJECTIVE, jnp.asarray(THETA0), STEPS)
    some = ide.run_discrete(ide.Adam(0.1), OBJECTIVE, jnp.asarray(THETA0), STEPS, ts=ts)
    np.testing.assert_array_equal(some.ts, ts)
    for part, full in ((some.theta, whole.theta), (some.moments["v"], whole.moments["v"])):
        # the same operations in another program: an ulp or two for each step
        np.testing.assert_allclose(part, full[np.array(ts)], rtol=0, atol=1e-13)
    np.testing.assert_allclose(some.loss, whole.loss[np.array(ts)], rtol=0, atol=1e-12)


@pytest.mark.parametrize("ts", [None, [3, 4, 10]], ids=str)
def test_save_is_kept_in_the_place_of_theta(ts):
    save = lambda s, theta, moments: {"s": s, "norm": jnp.sum(theta**2), "v": moments["v"][0]}
    whole = ide.run_discrete(ide.RMSProp(0.1), OBJECTIVE, jnp.asarray(THETA0), 10)
    run = ide.run_discrete(ide.RMSProp(0.1), OBJECTIVE, jnp.asarray(THETA0), 10, ts=ts, save=save)
    at = np.arange(11) if ts is None else np.array(ts)
    np.testing.assert_array_equal(run.theta["s"], at)
    np.testing.assert_allclose(run.theta["norm"], np.sum(whole.theta**2, axis=1)[at], rtol=1e-13)
    np.testing.assert_allclose(run.theta["v"], whole.moments["v"][at, 0], rtol=1e-13)
    np.testing.assert_allclose(run.loss, whole.loss[at], rtol=1e-13)


def train(tx, steps=STEPS):
    """An ordinary optax loop, under JAX's ordinary promotion: optax counts in integers."""
    theta = jnp.asarray(THETA0)
    state = tx.init(theta)

    @jax.jit
    def step(theta, state):
        updates, state = tx.update(jax.grad(OBJECTIVE)(theta), state, theta)
        return optax.apply_updates(theta, updates), state

    with jax.numpy_dtype_promotion("standard"):
        for _ in range(steps):
            theta, state = step(theta, state)
    return theta


@pytest.mark.parametrize("name", CASES)
def test_twin_trains_in_an_ordinary_optax_loop(name):
    rows, growth = reference(name)
    theta = train(CASES[name][0].optax())
    np.testing.assert_allclose(theta, rows[0][-1], rtol=0, atol=1e-12 * growth)


@pytest.mark.parametrize("name", ["adam", "rmsprop", "adagrad"])
def test_twin_chains_with_other_transformations(name):
    # halving every update halves the learning rate
    half = {"adam": ide.Adam(0.05), "rmsprop": ide.RMSProp(0.05), "adagrad": ide.AdaGrad(0.05)}
    chained = optax.chain(CASES[name][0].optax(), optax.scale(0.5))
    np.testing.assert_allclose(train(chained), train(half[name].optax()), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["adam", "rmsprop", "adagrad"])
def test_twin_without_decay_needs_no_parameters(name):
    tx = CASES[name][0].optax()
    g = jnp.asarray(THETA0)
    with jax.numpy_dtype_promotion("standard"):  # optax counts in integers
        with_params, _ = tx.update(g, tx.init(g), g)
        without, _ = tx.update(g, tx.init(g))
    np.testing.assert_array_equal(with_params, without)


@pytest.mark.parametrize(
    ("tx", "moments"),
    [(optax.adam(0.1), {"m", "v"}), (optax.sgd(0.01), set()), (optax.rmsprop(0.1), {"v"})],
    ids=["adam", "sgd", "rmsprop"],
)
def test_any_optax_transformation_runs(tx, moments):
    run = ide.run_discrete(tx, OBJECTIVE, jnp.asarray(THETA0), STEPS)
    np.testing.assert_allclose(run.theta[-1], train(tx), rtol=0, atol=1e-13)
    assert set(run.moments) == moments
    assert run.times is None


@pytest.mark.parametrize("name", ["adam", "rmsprop", "adagrad", "adam-both", "adagrad-lr-decay"])
def test_run_discrete_in_float32_follows_its_inputs(name):
    rows, growth = reference(name)
    theta0 = jnp.asarray(THETA0, jnp.float32)
    run = ide.run_discrete(CASES[name][0], OBJECTIVE, theta0, STEPS)
    assert run.theta.dtype == jnp.float32
    assert all(x.dtype == jnp.float32 for x in run.moments.values())
    # the same count of roundings, each of float32's size
    single = 1e-12 * float(np.finfo(np.float32).eps) / ULP
    np.testing.assert_allclose(run.theta, rows[0], rtol=0, atol=single * growth)
