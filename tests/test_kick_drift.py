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
