"""Interpolating flows, against closed forms and plain loops of optax."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import OBJECTIVES

import idemodels as ide
from idemodels._flow import FlowEquation

TIGHT = ide.Markov(rtol=1e-10, atol=1e-12)
OPTIMIZERS = {
    "momentum": optax.sgd(0.01, 0.9),
    "adamw": optax.adamw(0.02),
    "nadam": optax.nadam(0.02),
    "rmsprop": optax.rmsprop(0.02),
    "amsgrad": optax.amsgrad(0.02),
    "adagrad": optax.adagrad(0.05),
    "adabelief": optax.adabelief(0.02),
    "injected": optax.inject_hyperparams(optax.adam)(0.02),
    "scheduled": optax.adam(optax.cosine_decay_schedule(0.02, 50)),
}


def truncated(mu, order, stride=1):
    """The order's logarithm of a multiplier, as the series is written."""
    x = mu**stride - 1
    return sum((-1) ** (j + 1) / j * x**j for j in range(1, order + 1)) / stride


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_of_the_map_is_that_of_optax(name):
    case, tx = OBJECTIVES["logistic"], OPTIMIZERS[name]
    theta = case.theta0
    equation = FlowEquation.of(ide.InterpolatingFlow(tx), case.objective, None, theta)
    y = equation.start(theta)
    ours = jax.jit(lambda y: equation.step(y)[0])
    state = tx.init(theta)

    @jax.jit
    def plain(theta, state):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = tx.update(jax.grad(case.objective)(theta), state, theta)
        return optax.apply_updates(theta, updates), state

    for k in range(1, 21):
        y, (theta, state) = ours(y), plain(theta, state)
        assert jnp.max(jnp.abs(y.theta - theta)) <= k * 1e-14


@pytest.mark.parametrize("stride", [1, 2])
def test_the_right_hand_side_is_the_truncated_logarithm(stride):
    mu = 0.7
    for order in range(1, 7):
        flow = ide.InterpolatingFlow(optax.sgd((1 - mu) / 2), order, stride=stride)
        equation = FlowEquation.of(flow, ide.Quadratic(), None, jnp.ones(()))
        velocity = equation.velocity(equation.start(jnp.ones(()))).theta
        np.testing.assert_allclose(velocity, -3.0 * truncated(mu, order, stride), rtol=1e-12)


def test_a_counter_moves_by_one_a_step():
    flow = ide.InterpolatingFlow(optax.adam(0.1), 4)
    equation = FlowEquation.of(flow, ide.Quadratic(), None, jnp.ones(()))
    velocity = equation.velocity(equation.steps(equation.start(jnp.ones(())), 5))
    (count,) = (x for name, x in velocity.memory.items() if "count" in name)
    np.testing.assert_allclose(count, [1.0], rtol=1e-13)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_path_is_that_of_the_linear_equation(stride):
    mu, order = (0.8, 3) if stride == 1 else (-0.9, 3)
    flow = ide.InterpolatingFlow(
        optax.sgd((1 - mu) / 2), order, exact_steps=0, stride=stride, check=False
    )
    ts = np.array([0.0, 0.25, 1.0, 1.5, 2.0, 3.0, 6.5, 7.0, 8.0, 11.0])
    path = ide.solve(flow, ide.Quadratic(), 1.0, ts, method=TIGHT)
    phase = np.floor(ts) % stride
    rate = truncated(mu, order, stride)
    exact = 4.0 - 3.0 * mu**phase * np.exp(rate * (ts - phase))
    np.testing.assert_allclose(path.theta, exact, rtol=1e-8)
    assert path.times is None
    assert not path.moments


def test_gradients_are_counted_as_they_are_made():
    calls = []

    def loss(theta):
        @jax.custom_jvp
        def tick(x):
            jax.debug.callback(lambda: calls.append(None))
            return x

        tick.defjvp(lambda x, t: (tick(x[0]), t[0]))
        return jnp.sum((tick(theta) - 4.0) ** 2)

    flow = ide.InterpolatingFlow(optax.adam(0.01), order=3, exact_steps=5, stride=2, check=False)
    ts = np.array([0.0, 2.5, 10.0, 21.0, 40.0])
    path = jax.block_until_ready(ide.solve(flow, loss, 1.0, ts))
    jax.effects_barrier()
    # the loss at each of `ts` calls it too
    assert int(path.stats["num_gradients"]) == pytest.approx(len(calls) - ts.size, abs=8)
    assert path.stats["num_exact"] == 5


def test_orders_of_adam():
    found = ide.analysis.order_study(
        lambda a: optax.adam(a, 1 - a / 0.5, 1 - a / 5),
        *(ide.Quadratic(), 1.0, 2.0, [0.025, 0.0125]),
        orders=(2, 4),
    )
    assert np.all(found.slopes > np.array([1.7, 3.7])), found
    assert found.errors[1, -1] <= 1e-7
    assert "slope" in str(found)


def test_parameters_and_moments_are_as_for_a_model():
    theta0 = {"w": jnp.ones((2, 3)), "name": "held", "flag": jnp.arange(2)}

    def loss(theta, data):
        return jnp.sum((theta["w"] - data) ** 2)

    flow = ide.InterpolatingFlow(optax.adam(0.05), exact_steps=4, check=False)
    data, ts = jnp.arange(3.0), np.arange(0.0, 41.0, 4.0)
    shared = jnp.broadcast_to(data, (2, 3))
    path = ide.solve(flow, loss, theta0, ts, args=shared)
    run = ide.run_discrete(flow, loss, theta0, 40, ts=ts, args=shared)
    assert path.theta["w"].shape == (11, 2, 3)
    assert path.theta["name"] == "held"
    assert sorted(path.moments) == ["m", "v"]
    found = ide.compare(path, run)
    assert found.max_error < 3e-3
    assert found.moments["v"].max_error < 0.02
    assert found.error[1] == 0.0  # an exact step


def test_a_path_is_taken_up_again_from_its_state_and_from_optax():
    tx = optax.adam(0.02)
    flow = ide.InterpolatingFlow(tx, order=3, exact_steps=6, check=False)
    whole = ide.solve(flow, ide.Quadratic(), 1.0, np.arange(41.0), method=TIGHT)
    for k in (3, 20):
        ts = np.arange(k, k + 41.0)  # as many, so that nothing compiles anew
        options = {"method": TIGHT, "state0": whole.state_at(k)}
        rest = ide.solve(flow, ide.Quadratic(), 1.0, ts, **options)
        np.testing.assert_allclose(rest.theta[: 41 - k], whole.theta[k:], rtol=0, atol=2e-9)
    theta, opt_state = jnp.asarray(1.0), tx.init(jnp.asarray(1.0))
    for _ in range(6):
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = tx.update(2 * (theta - 4.0), opt_state)
        theta = optax.apply_updates(theta, updates)
    state = ide.state_from_optax(flow, opt_state)
    ts = np.arange(6.0, 47.0)
    rest = ide.solve(flow, ide.Quadratic(), theta, ts, method=TIGHT, state0=state)
    np.testing.assert_allclose(rest.theta[:35], whole.theta[6:], rtol=0, atol=2e-9)


def test_derivatives_batches_and_one_compilation():
    tx = optax.inject_hyperparams(optax.adam)(learning_rate=0.5)
    ts = np.array([0.0, 60.0])

    def final(rate, continuous=True, adjoint=None):
        flow = ide.InterpolatingFlow(tx, order=3, hyperparams={"learning_rate": rate}, check=False)
        if continuous:
            options = {"method": TIGHT, "adjoint": adjoint, "throw": False}
            return ide.solve(flow, ide.Quadratic(), 1.0, ts, **options).loss[-1]
        return ide.run_discrete(flow, ide.Quadratic(), 1.0, 60, ts=ts).loss[-1]

    rates = jnp.array([0.01, 0.02])
    once = eqx.filter_jit(eqx.debug.assert_max_traces(jax.grad(final), max_traces=1))
    slopes = jnp.stack([once(rate) for rate in rates])
    batched = jax.jit(jax.vmap(lambda rate: final(rate, adjoint=dfx.ForwardMode())))
    values, forward = jax.jvp(batched, (rates,), (jnp.ones(2),))
    with jax.numpy_dtype_promotion("standard"):
        exact = jax.vmap(jax.value_and_grad(lambda rate: final(rate, False)))(rates)
    np.testing.assert_allclose(values, exact[0], rtol=1e-4)
    np.testing.assert_allclose(slopes, exact[1], rtol=1e-3)
    np.testing.assert_allclose(forward, slopes, rtol=1e-6)


@pytest.mark.slow
def test_single_precision_does_not_cancel(float32):
    flow = ide.InterpolatingFlow(optax.adam(0.01), order=4, check=False)
    path = ide.solve(
        flow, ide.Quadratic(), 1.0, np.arange(101.0), method=ide.Markov(rtol=1e-5, atol=1e-7)
    )
    run = ide.run_discrete(flow, ide.Quadratic(), 1.0, 100)
    assert path.theta.dtype == jnp.float32
    assert ide.compare(path, run).max_error < 1e-5


SWINGING = ((1, 8.4e-3), (2, 1.0e-3), (3, 1.8e-4))


@pytest.mark.parametrize(
    ("order", "error"),
    [*(pytest.param(*row, marks=pytest.mark.slow) for row in SWINGING), (4, 3.6e-5)],
)
def test_stride_2_follows_the_edge_of_stability(order, error):
    theta0 = jnp.array([3.2, 1.02 / 3.2])
    flow = ide.InterpolatingFlow(optax.sgd(0.2), order, exact_steps=0, stride=2, check=False)
    path = ide.solve(flow, ide.Factorization(), theta0, np.arange(301.0), method=TIGHT)
    found = ide.compare(path, ide.run_discrete(flow, ide.Factorization(), theta0, 300)).max_error
    assert error / 1.5 < found < 1.5 * error


def test_a_path_that_swings_warns():
    theta0, ts = jnp.array([3.2, 1.02 / 3.2]), np.arange(0.0, 61.0, 20.0)
    with pytest.warns(UserWarning, match="fifth difference|multiplier"):
        ide.solve(ide.InterpolatingFlow(optax.sgd(0.2)), ide.Factorization(), theta0, ts)
