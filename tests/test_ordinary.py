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
TYPES = jnp.float32, jnp.float64
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


@pytest.mark.parametrize("steps", [200, 1000])
def test_the_default_costs_three_gradients_a_step_where_a_path_chatters(steps):
    given = ide.Adam(0.1, b2=0.8), ide.Quadratic(), 1.0
    path = ide.solve(*given, np.arange(steps + 1.0), method=ide.Markov())
    assert ide.is_okay(path.result)
    assert path.stats["num_gradients"] <= 3 * steps
    # a short step is made once, and longer ones are seldom tried where the price is spent
    assert 10 * path.stats["num_rejected"] <= 8 * steps
    ends = ide.run_discrete(*given, steps).theta[-1], path.theta[-1]
    np.testing.assert_allclose(*ends, rtol=0, atol=0.02)


def test_the_first_steps_are_as_short_as_single_precision_has_them():
    """Early a path makes its whole range within the smallest steps there are."""
    objective, ts = ide.DigitsMLP(), np.arange(31.0)
    narrow, wide = (jax.tree.map(lambda x, t=t: x.astype(t), objective.theta0) for t in TYPES)
    path = ide.solve(ide.Adam(0.01), objective, narrow, ts)
    tight = ide.Markov(rtol=1e-6, max_gradients=None)
    exact = ide.solve(ide.Adam(0.01), objective, wide, ts, method=tight)
    theta, right = (
        np.concatenate(
            [np.asarray(x, float).reshape(ts.size, -1) for x in jax.tree.leaves(p.theta)], 1
        )
        for p in (path, exact)
    )
    assert bool(path.stats["converged"])
    assert np.abs(theta - right).max() < 1e-4 * np.abs(right - right[0]).max()


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
