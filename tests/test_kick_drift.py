"""The short step: the splitting written by hand, and its order."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import idemodels as ide
from benchmarks.ordinary_problems import problems, splitting
from idemodels._method.kick_drift import KickDrift, is_short, not_short

STEPS = 10


def path(model, loss, theta0, kicks):
    """Theta after each optimizer step, by so many short steps each, and the sum of their errors."""
    equation = ide.Equation(model, loss)
    h = jnp.asarray(1.0 / kicks)

    @eqx.filter_jit
    def whole():
        def one(carry, k):
            y, g = carry
            kick = KickDrift.of(model, k * h, h, y, g)
            g = equation.gradient(kick.ahead, y.fixed)
            short, error = kick.finished(g)
            return (short.y1, g), (short.y1.theta, error)

        y0 = equation.init(theta0)
        start = (y0, equation.gradient(y0.theta, y0.fixed))
        return jax.lax.scan(one, start, jnp.arange(STEPS * kicks).astype(h.dtype))[1]

    thetas, errors = whole()
    return np.asarray(thetas)[kicks - 1 :: kicks], np.asarray(errors).sum(0).max()


def test_of_adam_it_is_the_splitting_written_by_hand():
    loss, theta0 = problems(jnp.float64)["logistic regression"]
    model = ide.Adam(0.05)
    found, _ = path(model, loss, theta0, 2)
    np.testing.assert_allclose(found, splitting(model, loss, theta0, STEPS, 2)[1:], rtol=1e-9)


@pytest.mark.parametrize(
    "model",
    [ide.Adam(0.05), ide.RMSProp(0.01, 0.99), ide.AdaGrad(0.1), ide.Adam(0.05, weight_decay=0.1)],
    ids=["adam", "rmsprop", "adagrad", "adamw"],
)
def test_its_order_is_two_and_its_error_is_seen(model):
    loss, theta0 = problems(jnp.float64)["logistic regression"]
    right = path(model, loss, theta0, 512)[0][-1]
    kicks = np.array([8, 16, 32, 64])
    runs = [path(model, loss, theta0, k) for k in kicks]
    errors = np.array([np.abs(thetas[-1] - right).max() for thetas, _ in runs])
    slope = -np.polyfit(np.log(kicks), np.log(errors), 1)[0]
    assert abs(slope - 2.0) < 0.25, (slope, errors)
    told = np.array([error for _, error in runs])
    assert np.all(told > 0.2 * errors), (told, errors)


def test_a_length_says_whether_a_step_is_short():
    assert bool(is_short(jnp.asarray(0.5), 0.5))
    assert bool(is_short(jnp.asarray(0.503), 0.5))
    assert not bool(is_short(jnp.asarray(0.49), 0.5))
    assert not bool(is_short(not_short(jnp.asarray(0.5), 0.5), 0.5))
    assert float(not_short(jnp.asarray(2.0), 0.5)) == 2.0


def test_where_a_gradient_grows_within_a_short_step_the_path_stays_where_the_run_is():
    # the second moment forgets within ten steps: a gradient over the root of what it was leaps
    model = ide.RMSProp(0.1, 0.9, reading="causal")
    given = problems(jnp.float64)["logistic regression"]
    path = ide.solve(model, *given, np.arange(201.0))
    run = ide.run_discrete(model, *given, 200)
    assert path.stats["num_gradients"] <= 4 * 200 + 160
    assert jnp.abs(path.theta).max() < 2.0 * jnp.abs(run.theta).max()


def test_a_start_that_is_not_smooth_has_a_price_too():
    # b2 is next to 1: all that is far happens in the first step
    model = ide.RMSProp(0.01, 0.99999, reading="causal")
    path = ide.solve(model, *problems(jnp.float64)["linear regression"], np.arange(201.0))
    assert ide.is_okay(path.result)
    assert path.stats["num_gradients"] <= 4 * 200 + 160
