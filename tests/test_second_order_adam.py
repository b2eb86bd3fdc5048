"""Adam with inertia: against an independent solution, and where its second moment falls below 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references_second_order as ref

import idemodels as ide

TIGHT = ide.Markov(rtol=1e-9, atol=1e-11)
BETAS = [(0.99, 0.999), (0.5, 0.2), (0.49, 0.49), (0.5, 0.5), (0.51, 0.51)]


@pytest.mark.parametrize(
    ("rate", "steps", "c", "velocity0"),
    [
        *((0.01, 300, c, velocity0) for c in (0.0, 1.5) for velocity0 in (0.0, 1.0)),
        pytest.param(0.001, 3000, 0.0, 1.0, marks=pytest.mark.slow),
        pytest.param(0.001, 3000, 1.5, 0.0, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("betas", BETAS, ids=str)
def test_paths_are_the_independent_solution(betas, c, rate, steps, velocity0):
    ts = np.linspace(0.0, steps, 61)
    model = ide.SecondOrderAdam(rate, *betas, velocity0=velocity0)
    path = ide.solve(model, ide.TiltedDoubleWell(c), -1.5, ts, method=TIGHT)
    rows = ref.solve(ref.gradient(c), rate, *betas, velocity0, -1.5, ts)
    # a hundred times the tolerance, over up to 1e4 steps
    np.testing.assert_allclose(path.theta, rows[:, 0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(path.moments["m"], rows[:, 2], rtol=0, atol=1e-7)
    np.testing.assert_allclose(path.moments["v"], rows[:, 4], rtol=0, atol=1e-7 * rows[:, 4].max())


def test_early_steps_where_the_direction_grows_like_a_root():
    ts = np.array([0.0, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0, 2.0])
    path = ide.solve(ide.SecondOrderAdam(0.1), ide.TiltedDoubleWell(1.5), 2.0, ts, method=TIGHT)
    rows = ref.solve(ref.gradient(1.5), 0.1, 0.9, 0.999, 0.0, 2.0, ts)
    moved = rows[1:, 0] - 2.0
    np.testing.assert_allclose(path.theta[1:] - 2.0, moved, rtol=1e-4, atol=1e-12)


def test_the_initial_velocity_is_that_of_the_papers_time():
    ts = np.array([0.0, 1e-3])
    model, method = ide.SecondOrderAdam(0.1, velocity0=2.0), ide.Markov(rtol=1e-6)
    path = ide.solve(model, ide.Quadratic(), 1.0, ts, method=method)
    np.testing.assert_allclose(path.states.velocity[0], 0.1 * 2.0, rtol=1e-12)
    np.testing.assert_allclose(path.theta[1] - 1.0, 0.2 * 1e-3, rtol=2e-3)


@pytest.mark.parametrize("method", [ide.Markov(rtol=1e-8, atol=1e-10), ide.History(64)], ids=str)
def test_both_methods_find_one_path(method):
    ts = np.linspace(0.0, 20.0, 21)
    model = ide.SecondOrderAdam(0.05, 0.9, 0.99, velocity0=1.0)
    path = ide.solve(model, ide.TiltedDoubleWell(1.5), 2.0, ts, method=method)
    rows = ref.solve(ref.gradient(1.5), 0.05, 0.9, 0.99, 1.0, 2.0, ts)
    np.testing.assert_allclose(path.theta, rows[:, 0], rtol=0, atol=2e-5)
    np.testing.assert_allclose(path.moments["v"], rows[:, 4], rtol=0, atol=2e-3)


@pytest.mark.slow
def test_a_path_goes_on_with_its_velocity():
    ts = np.linspace(0.0, 20.0, 9)
    model, objective = ide.SecondOrderAdam(0.1, velocity0=1.0), ide.Quadratic()
    whole = ide.solve(model, objective, 1.0, ts, method=TIGHT)
    rest = ide.solve(model, objective, 1.0, ts[4:], method=TIGHT, state0=whole.state_at(4))
    np.testing.assert_allclose(rest.theta, whole.theta[4:], rtol=0, atol=1e-8)
    start = ide.State(1.0, jnp.asarray(1.0), whole.state_at(0).memory, jnp.asarray(0.1))
    shifted = ide.solve(model, objective, 1.0, ts + 1.0, state0=start)
    assert jnp.max(jnp.abs(shifted.theta - whole.theta)) > 1e-3


@pytest.mark.slow
def test_derivatives_in_every_hyperparameter_are_those_of_differences():
    def final(values):
        rate, b1, b2, velocity0 = values
        model = ide.SecondOrderAdam(rate, b1, b2, velocity0=velocity0)
        ts = np.array([0.0, 10.0])
        return ide.solve(model, ide.Quadratic(), 1.0, ts, method=TIGHT).theta[-1]

    at, h = jnp.array([0.1, 0.7, 0.9, 1.0]), 1e-4
    unit = jnp.eye(4) * h
    high, low = jax.jit(jax.vmap(final))(at[None] + jnp.concatenate([unit, -unit])).reshape(2, 4)
    wanted = (high - low) / (2.0 * h)
    gradient = jax.jit(jax.grad(final))
    # b1 = 1/2, where the kernel changes its form, is a point like any other
    np.testing.assert_allclose(gradient(at), wanted, rtol=1e-5)
    below, above = (gradient(at.at[1].set(0.5 + d))[1] for d in (-1e-9, 1e-9))
    np.testing.assert_allclose(below, above, rtol=1e-6)


FADING = lambda theta: jnp.logaddexp(0.0, theta)  # a slope of 1 that ends: g falls like exp


def test_a_second_moment_below_zero_is_told_and_counted():
    ts = np.linspace(0.0, 30.0, 61)
    model = ide.SecondOrderAdam(1.0, 0.5, 0.2)
    with pytest.raises(RuntimeError, match=r"second moment fell below zero.*Raise `b2` to 1/2"):
        ide.solve(model, FADING, 2.0, ts)
    path = ide.solve(model, FADING, 2.0, ts, throw=False)
    assert path.result == ide.RESULTS.negative_second_moment
    assert path.stats["num_clamped"] > 0
    # the lemma is sufficient: while it holds, the moment is positive
    guaranteed = np.asarray(path.stats["positivity_guaranteed"])
    assert guaranteed[0]
    assert not guaranteed[-1]
    assert np.all(path.moments["v"][1:][guaranteed[1:]] > 0)
    assert np.nanmin(path.moments["v"]) < 0


def test_a_guarantee_that_the_steps_refute_is_not_given():
    """g turns over between the two places where the path is kept, and the lemma sees only those."""
    steep = lambda x: (jnp.logaddexp(0.0, 8.0 * x) - jnp.logaddexp(0.0, -8.0 * (x + 2.0))) / 8.0
    model, ts = ide.SecondOrderAdam(0.5, 0.9, 0.1), np.array([0.0, 8.05])
    path = ide.solve(model, steep, 2.0, ts, throw=False)
    assert path.stats["num_clamped"] > 0
    assert 0.0 < path.stats["clamped_from"] < 8.05
    assert not path.stats["positivity_guaranteed"][-1]


def test_a_resumed_path_guarantees_nothing():
    ts = np.linspace(0.0, 6.0, 13)
    model = ide.SecondOrderAdam(0.1, 0.5, 0.2)
    first = ide.solve(model, ide.Quadratic(), 1.0, ts)
    rest = ide.solve(model, ide.Quadratic(), 1.0, ts + 6.0, state0=first.state_at(-1))
    assert not np.any(rest.stats["positivity_guaranteed"])


def test_the_lemma_is_what_the_paper_says():
    model = ide.SecondOrderAdam(0.1, 0.5, 0.2)
    ratio = np.exp(-np.pi / np.sqrt(0.6))
    one = jnp.ones(())
    assert model.moment_stays_positive(1.01 * ratio * one, one)
    assert not model.moment_stays_positive(0.99 * ratio * one, one)
    assert ide.SecondOrderAdam(0.1, 0.5, 0.5).moment_stays_positive(0.0 * one, one)


@pytest.mark.parametrize("b2", [0.5, 0.9])
def test_a_kernel_that_keeps_its_sign_clamps_nothing(b2):
    ts = np.linspace(0.0, 30.0, 61)
    path = ide.solve(ide.SecondOrderAdam(1.0, 0.5, b2), FADING, 2.0, ts)
    assert path.stats["num_clamped"] == 0
    assert np.all(path.stats["positivity_guaranteed"])
