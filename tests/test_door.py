"""Solving by hand through diffrax, any of its solvers, events, and paths that are not kept."""

import resource

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import Counted

import idemodels as ide

TS = np.linspace(0.0, 40.0, 9)
# tighter than what is asserted: Dopri8's output between its steps is of lower order than they are
TIGHT = {"rtol": 1e-13, "atol": 1e-14}


def by_hand(model, ts, **options):
    equation = ide.Equation(model, ide.Quadratic())
    return dfx.diffeqsolve(
        equation.term(),
        dfx.Dopri8(),
        ts[0],
        ts[-1],
        0.1,
        equation.init(jnp.ones(1)),
        saveat=dfx.SaveAt(ts=ts, fn=lambda s, y, args: equation.unpack(s, y)),
        stepsize_controller=dfx.PIDController(**TIGHT),
        **options,
    )


@pytest.mark.parametrize(
    "model",
    [
        ide.Adam(0.1),
        pytest.param(ide.RMSProp(0.1), marks=pytest.mark.slow),
        pytest.param(ide.AdaGrad(0.1), marks=pytest.mark.slow),
    ],
)
def test_diffrax_by_hand_equals_solve(model):
    theta, moments = by_hand(model, TS).ys
    path = ide.solve(model, ide.Quadratic(), jnp.ones(1), TS, method=ide.Markov(**TIGHT))
    np.testing.assert_allclose(theta, path.theta, rtol=0, atol=1e-10)
    for name, moment in moments.items():
        np.testing.assert_allclose(moment, path.moments[name], rtol=1e-9)


def test_an_event_ends_the_path_in_both_ways():
    model, event = ide.Adam(0.1), dfx.Event(lambda s, y, args, **kwargs: y.theta[0] > 3.0)
    solution = by_hand(model, TS, event=event)
    method = ide.Markov(event=event, **TIGHT)
    path = ide.solve(model, ide.Quadratic(), jnp.ones(1), TS, method=method)
    assert path.result == ide.RESULTS.event_occurred
    assert ide.is_okay(path.result)
    kept = np.isfinite(path.theta[:, 0])
    np.testing.assert_array_equal(kept, np.isfinite(solution.ys[0][:, 0]))
    assert 0 < kept.sum() < TS.size
    assert path.last.theta[0] > 3.0


def test_an_event_of_a_causal_start_sees_the_step_and_the_state():
    event = dfx.Event(lambda s, y, args, **kwargs: s > 0.25)
    method = ide.Markov(dfx.Tsit5(), event=event)
    ts = np.linspace(0.0, 1.0, 9)
    path = ide.solve(ide.RMSProp(0.1, reading="causal"), ide.Quadratic(), 1.0, ts, method=method)
    assert 0.25 < path.last.s <= 1.0
    np.testing.assert_array_equal(np.isfinite(path.theta), ts <= path.last.s)


@pytest.mark.parametrize(
    "solver",
    [dfx.Tsit5(), dfx.Dopri5(), dfx.Bosh3(), dfx.Kvaerno5()],
    ids=lambda s: type(s).__name__,
)
def test_any_solver_of_diffrax_finds_the_path(solver):
    method = ide.Markov(solver, rtol=1e-8, atol=1e-10)
    path = ide.solve(ide.Adam(0.1), ide.Quadratic(), jnp.ones(1), TS, method=method)
    precise = ide.solve(ide.Adam(0.1), ide.Quadratic(), jnp.ones(1), TS, method=ide.Markov(**TIGHT))
    np.testing.assert_allclose(path.theta, precise.theta, rtol=0, atol=1e-5)


def test_euler_takes_the_steps_of_the_papers_simulations():
    ts = np.arange(11.0)
    path = ide.solve(ide.AdaGrad(0.1), ide.Quadratic(), 1.0, ts, method=ide.Markov(dfx.Euler()))
    theta, G = 1.0, 0.0
    for k in range(10):
        np.testing.assert_allclose(path.theta[k], theta, rtol=1e-14)
        g = 2 * (theta - 4)
        theta, G = theta - 0.1 * g / (np.sqrt(G + g * g) + 1e-8), G + g * g
    assert path.stats["num_steps"] == 10


@pytest.mark.parametrize(
    ("model", "method"),
    [
        (ide.Adam(0.1), ide.Markov()),
        pytest.param(ide.Adam(0.1), ide.Markov(rtol=1e-9, atol=1e-11), marks=pytest.mark.slow),
        (ide.RMSProp(0.1, reading="causal"), ide.Markov()),
        (ide.Adam(0.1), ide.Markov(dfx.Euler())),
        (ide.Adam(0.1), ide.Markov(dfx.Tsit5())),
        (ide.Adam(0.1), ide.Markov(dfx.Dopri8(), rtol=1e-9)),
    ],
    ids=["default", "tight", "causal", "Euler", "Tsit5", "Dopri8"],
)
def test_counted_gradients_are_the_calls_made(model, method):
    calls = []
    path = ide.solve(model, Counted(calls), jnp.ones(1), TS, method=method)
    jax.effects_barrier()
    assert path.stats["num_gradients"] == len(calls)


@pytest.mark.slow
def test_what_save_returns_replaces_the_path():
    save = lambda s, theta, moments: {"norm": jnp.sum(theta**2), "v": moments["v"][0], "s": s}
    whole = ide.solve(ide.Adam(0.1), ide.Quadratic(), jnp.ones(3), TS)
    path = ide.solve(ide.Adam(0.1), ide.Quadratic(), jnp.ones(3), TS, save=save)
    np.testing.assert_allclose(path.theta["norm"], jnp.sum(whole.theta**2, axis=1), rtol=1e-12)
    np.testing.assert_allclose(path.theta["v"], whole.moments["v"][:, 0], rtol=1e-12)
    np.testing.assert_allclose(path.theta["s"], TS)
    np.testing.assert_allclose(path.loss, whole.loss, rtol=1e-12)
    assert path.moments == {}
    np.testing.assert_allclose(path.state_at(-1).theta, whole.theta[-1], rtol=1e-12)
    with pytest.raises(ValueError, match="keeps no states"):
        path.state_at(0)


@pytest.fixture
def as_usual():
    """Compiled as for a user: two thousand looks at a million parameters are nine times as fast."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.slow
def test_a_million_parameters_with_two_thousand_saved_scalars_stay_small(float32, as_usual):
    # 1e6 float32 are 4 MB; the whole path would be 8 GB, the solver's state some dozens of copies
    theta0 = jnp.ones(1_000_000, jnp.float32)
    objective = lambda theta: jnp.mean((theta - 4.0) ** 2)
    save = lambda s, theta, moments: theta[0]
    ts = np.linspace(0.0, 200.0, 2000)
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    before = peak()
    path = ide.solve(ide.Adam(0.01), objective, theta0, ts, save=save)
    assert path.theta.shape == (2000,)
    assert peak() - before < 1.0 + 42 * 4 / 1024  # GiB
