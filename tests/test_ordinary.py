"""A bounded price on problems that everybody has: its price, its error, and what it says of both.

The reference is a splitting of the equation that shares no code with the library.
"""

import functools

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import idemodels as ide
from benchmarks.ordinary_problems import problems, splitting

STEPS = 300
BOUNDED = ide.Markov(rtol=1e-3, steady_tol="rtol", max_gradients=4)
MODELS = {
    "adam": ide.Adam(0.05),
    "rmsprop": ide.RMSProp(0.05, 0.99),
    "adagrad": ide.AdaGrad(0.25),
}


@functools.cache
def right(problem, model):
    """The path to some 1e-5 of its range."""
    given = (MODELS[model], *problems(jnp.float64)[problem], STEPS)
    crude, fine = (np.asarray(splitting(*given, k)) for k in (32, 64))
    return fine + (fine - crude) / 3.0


def solved(problem, model, dtype=jnp.float64):
    loss, theta0 = problems(dtype)[problem]
    path = ide.solve(MODELS[model], loss, theta0, np.arange(STEPS + 1.0), method=BOUNDED)
    theta = right(problem, model)
    size = np.abs(theta - theta[0]).max()
    return path, np.abs(np.asarray(path.theta, float).reshape(theta.shape) - theta).max() / size


@pytest.mark.parametrize(
    ("problem", "model"),
    [
        ("logistic regression", "adam"),
        ("linear regression", "rmsprop"),
        ("logistic regression", "adagrad"),
        pytest.param("Huber's loss", "adam", marks=pytest.mark.slow),
        pytest.param("Rosenbrock", "rmsprop", marks=pytest.mark.slow),
        pytest.param("factorization", "adagrad", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32], ids=["double", "single"])
def test_a_path_costs_about_the_run_and_keeps_ten_times_its_tolerance(problem, model, dtype):
    path, error = solved(problem, model, dtype)
    assert ide.is_okay(path.result)
    assert bool(path.stats["converged"])
    assert path.stats["num_gradients"] <= 4 * STEPS
    assert error < 1e-2


def test_a_kink_that_is_too_dear_is_bounded_and_marked():
    path, error = solved("hinge", "rmsprop")
    assert ide.is_okay(path.result)
    assert path.stats["num_gradients"] <= 4 * STEPS
    assert not bool(path.stats["converged"])
    run = ide.run_discrete(MODELS["rmsprop"], *problems(jnp.float64)["hinge"], STEPS)
    with pytest.warns(UserWarning, match="not converged"):
        ide.compare(path, run)
    assert error < 1.0


def test_a_long_run_that_has_converged_costs_little():
    ts = np.array([0.0, 20_000.0])
    path = ide.solve(MODELS["adam"], ide.Quadratic(), 1.0, ts, method=BOUNDED)
    assert path.result == ide.RESULTS.steady_state
    assert path.stats["num_gradients"] < 2000
    np.testing.assert_allclose(path.theta[-1], 4.0, rtol=0, atol=3e-3)


def test_a_path_with_an_event_is_not_held_unless_told():
    late = dfx.Event(lambda s, y, args, **kwargs: s > 1000.0)
    given = MODELS["adam"], ide.Quadratic(), 1.0, np.array([0.0, 2000.0])
    path = ide.solve(*given, method=ide.Markov(event=late))
    assert path.result == ide.RESULTS.event_occurred
    held = ide.solve(*given, method=ide.Markov(event=late, steady_tol=1e-4))
    assert held.result == ide.RESULTS.steady_state


def test_never_holding_is_a_word():
    never = ide.Markov(rtol=1e-3, steady_tol=None, max_gradients=4)
    path = ide.solve(MODELS["adam"], ide.Quadratic(), 1.0, np.array([0.0, 400.0]), method=never)
    assert path.result == ide.RESULTS.successful


@pytest.mark.parametrize("model", ["rmsprop", "adagrad"])
def test_derivatives_through_the_implicit_method_are_those_of_differences(model):
    loss, theta0 = problems(jnp.float64)["logistic regression"]
    of = lambda rate: eqx.tree_at(lambda m: m.learning_rate, MODELS[model], rate)
    method = ide.Markov(rtol=1e-3, steady_tol=None, max_gradients=4)

    def final(rate):
        path = ide.solve(of(rate), loss, theta0, np.array([0.0, 100.0]), method=method)
        return loss(path.theta[-1])

    rate = jnp.asarray(float(np.asarray(MODELS[model].learning_rate)))
    found = jax.jit(jax.grad(final))(rate)
    h = 1e-3 * rate
    low, high = (loss(splitting(of(r), loss, theta0, 100, 64)[-1]) for r in (rate - h, rate + h))
    np.testing.assert_allclose(found, (high - low) / (2 * h), rtol=1e-2)
