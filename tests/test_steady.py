"""Paths that come to rest are held, and those that only seem to are not."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references as ref
from helpers import Bowls, Counted

import idemodels as ide

TAILS = {
    "adam": (ide.Adam(0.01, 0.9, 0.95), ide.Quadratic(), ref.quadratic(), 10000, 4.0, 400),
    "rmsprop": (ide.RMSProp(0.01), ide.Quadratic(), ref.quadratic(), 5000, 4.0, 200),
    "valley": (ide.RMSProp(0.01), ide.Rosenbrock(), ref.rosenbrock(), 5000, 1.0, 4000),
}
QUICK = (("adam", 1e-6), ("valley", 1e-3))


@pytest.mark.parametrize(
    ("name", "rtol"),
    [
        case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow)
        for case in itertools.product(TAILS, (1e-3, 1e-6))
    ],
)
def test_a_stiff_tail_is_finished(name, rtol):
    model, objective, loss, steps, minimum, most = TAILS[name]
    method = ide.Markov(rtol=rtol, atol=1e-3 * rtol, steady_tol=1e-3)
    ts = np.linspace(0.0, steps, 21)
    path = ide.solve(model, objective, jnp.asarray(loss.theta0), ts, method=method)
    assert path.result == ide.RESULTS.steady_state
    assert ide.is_okay(path.result)
    assert path.stats["num_steps"] <= most
    span = np.abs(loss.theta0 - minimum).max()
    np.testing.assert_allclose(path.theta[-1], minimum, rtol=0, atol=1e-3 * span)
    held = ts > path.stats["steady_at"]
    assert held.sum() > 5
    np.testing.assert_array_equal(
        path.theta[held], np.broadcast_to(path.theta[-1], path.theta[held].shape)
    )
    np.testing.assert_array_equal(path.loss[held], path.loss[-1])
    np.testing.assert_array_equal(path.ts, ts)


def test_a_tail_is_finished_without_a_tolerance_for_rest_too():
    model, objective, loss, steps, minimum, _ = TAILS["rmsprop"]
    never = ide.Markov(rtol=1e-6, steady_tol=None)
    path = ide.solve(model, objective, jnp.asarray(loss.theta0), [0.0, float(steps)], method=never)
    assert path.result == ide.RESULTS.successful
    assert path.stats["implicit_from"] < steps
    assert path.stats["steady_at"] == np.inf
    np.testing.assert_allclose(path.theta[-1], minimum, atol=1e-8)


@pytest.mark.slow
def test_a_stiff_tail_of_many_parameters_is_finished():
    model, theta0, ts = ide.RMSProp(0.01, 0.9), jnp.linspace(1.0, 3.0, 40), np.linspace(0, 600, 13)
    method = ide.Markov(rtol=1e-4, atol=1e-7, steady_tol=1e-3, max_gradients=None)
    calls = []
    path = ide.solve(model, Counted(calls), theta0, ts, method=method)
    jax.effects_barrier()
    assert path.result == ide.RESULTS.steady_state
    assert path.stats["implicit_from"] < path.stats["steady_at"]
    assert path.stats["num_gradients"] == len(calls)
    tight = ide.Markov(rtol=1e-8)
    alone = lambda x: ide.solve(model, ide.Quadratic(), x, ts, method=tight).theta
    np.testing.assert_allclose(
        path.theta, jax.vmap(alone, out_axes=1)(theta0), rtol=0, atol=1e-3 * 3.0
    )


def test_many_parameters_stay_explicit_in_a_call_that_is_traced():
    method = ide.Markov(max_steps=300)
    ts, theta0 = np.asarray([0.0, 600.0]), jnp.linspace(1.0, 3.0, 40)
    solved = lambda x: ide.solve(ide.RMSProp(0.01), Bowls(), x, ts, method=method, throw=False)
    path = eqx.filter_jit(solved)(theta0)
    assert path.result == ide.RESULTS.max_steps_reached
    assert jnp.isinf(path.stats["implicit_from"])


class Plateau(eqx.Module):
    """Slope -1 up to theta = 1, then -1e-4, and from theta = 3 a parabola."""

    width: jax.Array

    def slope(self, x):
        first, second = (jax.nn.sigmoid((x - at) / self.width) for at in (1.0, 3.0))
        return -(1.0 - first) - 1e-4 * first * (1.0 - second) + second * (x - 3.0)

    def __call__(self, theta):
        @jax.custom_jvp
        def loss(x):
            return jnp.zeros_like(x)

        loss.defjvp(lambda at, along: (loss(*at), self.slope(*at) * along[0]))
        return loss(jnp.sum(theta))


@pytest.mark.parametrize(
    ("model", "steps"),
    [
        pytest.param(ide.RMSProp(0.01), 1000.0, marks=pytest.mark.slow),
        pytest.param(ide.RMSProp(0.01, reading="causal"), 1000.0, marks=pytest.mark.slow),
        (ide.Adam(0.01, 0.9, 0.99), 3000.0),
    ],
    ids=["closure", "causal", "adam"],
)
def test_a_plateau_is_no_rest(model, steps):
    # at theta = 1.1 the direction is 1e-4, and stays small until v has forgotten the slope before
    objective = Plateau(jnp.asarray(0.02))
    method = ide.Markov(steady_tol=1e-3)
    path = ide.solve(model, objective, jnp.zeros(1), [0.0, steps / 2, steps], method=method)
    np.testing.assert_allclose(path.theta[-1], 3.0001, atol=3e-3)


@pytest.mark.slow
def test_a_plateau_that_lasts_is_left_to_itself():
    # Adam's v forgets so slowly that it creeps on until the end
    objective = Plateau(jnp.asarray(0.02))
    paths = [
        ide.solve(
            ide.Adam(0.01),
            objective,
            jnp.zeros(1),
            [0.0, 8000.0],
            method=ide.Markov(steady_tol=tol),
        )
        for tol in (None, 1e-3)
    ]
    assert paths[1].result == ide.RESULTS.successful
    np.testing.assert_allclose(paths[1].theta[-1], paths[0].theta[-1], rtol=1e-6)


def test_a_start_at_the_minimum_is_at_rest():
    path = ide.solve(
        ide.Adam(0.1),
        ide.Quadratic(),
        jnp.full(2, 4.0),
        [0.0, 1e4],
        method=ide.Markov(steady_tol=1e-3),
    )
    assert path.result == ide.RESULTS.steady_state
    np.testing.assert_array_equal(path.theta, 4.0)


def test_what_is_held_goes_through_save_and_can_be_gone_on_from():
    save = lambda s, theta, moments: {"s": s, "theta": theta, "v": moments["v"]}
    method = ide.Markov(steady_tol=1e-3)
    model, ts = ide.RMSProp(0.05), np.linspace(0.0, 2000.0, 11)
    path = ide.solve(model, ide.Quadratic(), jnp.ones(1), ts, method=method, save=save)
    assert path.result == ide.RESULTS.steady_state
    np.testing.assert_array_equal(path.theta["s"], ts)
    assert np.isfinite(path.theta["v"]).all()
    state = path.state_at(-1)
    assert state.s == ts[-1]
    more = ide.solve(model, ide.Quadratic(), None, [2000.0, 2100.0], state0=state)
    np.testing.assert_allclose(more.theta[-1], 4.0, atol=3e-3)


def test_looks_are_counted_as_gradients():
    calls = []
    method = ide.Markov(ide.ExponentialMultistep(), steady_tol=1e-3)
    path = ide.solve(ide.RMSProp(0.05), Counted(calls), jnp.ones(1), [0.0, 2000.0], method=method)
    jax.effects_barrier()
    assert path.result == ide.RESULTS.steady_state
    assert path.stats["num_gradients"] == len(calls)


@pytest.mark.slow
def test_lanes_rest_each_at_its_time_and_have_finite_gradients():
    method = ide.Markov(ide.ExponentialMultistep(), steady_tol=1e-3)

    def last(rate):
        path = ide.solve(
            ide.RMSProp(rate),
            ide.Quadratic(),
            jnp.ones(1),
            [0.0, 400.0],
            method=method,
            throw=False,
        )
        return path.theta[-1, 0], (path.result == ide.RESULTS.steady_state, path.stats["steady_at"])

    rates = jnp.asarray([0.1, 0.05, 0.001])
    (theta, (rests, at)), slopes = jax.jit(jax.vmap(jax.value_and_grad(last, has_aux=True)))(rates)
    np.testing.assert_array_equal(rests, [True, True, False])
    assert at[0] < at[1] < at[2] == np.inf
    assert np.isfinite(slopes).all()
    np.testing.assert_allclose(theta[:2], 4.0, atol=3e-3)


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_a_tolerance_for_rest_that_is_no_positive_number_is_refused(value):
    with pytest.raises(ValueError, match="Argument `steady_tol` must be a positive number"):
        ide.Markov(steady_tol=value)
