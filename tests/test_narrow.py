"""What is passed within a step: narrow features, short events, rates that are not numbers."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix as optx
import pytest
from scipy.integrate import solve_ivp

import idemodels as ide


def cliff(theta):
    return 0.5 * (theta - 4.0) ** 2 + 0.02 * jnp.tanh((theta - 2.5) / 0.002)


def linear(theta):
    return 1.0 * theta


def _cliff_by_scipy(ts):
    slope = lambda y: (y - 4) + 10 / np.cosh(np.clip((y - 2.5) / 0.002, -300, 300)) ** 2
    r1, r2, l1, l2, s0 = 0.1, 1e-3, -np.log(0.9), -np.log(0.999), 1e-7
    g0 = slope(1.0)

    def rhs(s, z):
        pull = (z[1] / -np.expm1(-l1 * s)) / (np.sqrt(z[2] / -np.expm1(-l2 * s)) + 1e-8)
        g = slope(z[0])
        return [-0.01 * pull, r1 * (g - z[1]), r2 * (g * g - z[2])]

    start = [1.0, r1 * g0 * s0, r2 * g0**2 * s0]
    tight = dict(rtol=1e-11, atol=1e-13, max_step=0.05, t_eval=ts[1:])
    return solve_ivp(rhs, (s0, ts[-1]), start, "DOP853", **tight).y[0]


def test_a_cliff_is_seen_by_bounded_steps():
    ts = np.arange(0.0, 301.0, 20.0)
    path = ide.solve(ide.Adam(0.01), cliff, 1.0, ts, method=ide.Markov(max_step=0.1))
    np.testing.assert_allclose(path.theta[1:], _cliff_by_scipy(ts), rtol=0, atol=1e-4)


def test_an_event_of_one_optimizer_step_is_seen():
    short = diffrax.Event(lambda s, y, args, **kwargs: (s > 500.2) & (s < 501.3))
    path = ide.solve(
        ide.Adam(0.001), linear, 1.0, np.array([0.0, 1000.0]), method=ide.Markov(event=short)
    )
    assert bool(path.result == ide.RESULTS.event_occurred)
    assert 500.2 < float(path.last.s) < 501.3


@pytest.mark.slow
def test_the_derivative_of_an_events_time():
    reached = diffrax.Event(lambda s, y, args, **kwargs: y.theta - 2.0, optx.Newton(1e-8, 1e-8))
    method = ide.Markov(diffrax.Tsit5(), event=reached)

    def when(rate):
        ts = jnp.array([0.0, 300.0])
        return ide.solve(ide.Adam(rate), ide.Quadratic(), 1.0, ts, method=method).last.s

    slope = float(when(0.01001) - when(0.00999)) / 2e-5
    assert float(jax.grad(when)(0.01)) == pytest.approx(slope, rel=1e-4)


def test_the_derivative_of_a_failed_lane_is_not_a_number():
    def wall(theta):
        return jnp.where(theta > 2.5, jnp.nan, 1.0) * (theta - 4.0) ** 2

    def last(rate):
        ts = np.array([0.0, 30.0, 300.0])
        return ide.solve(ide.Adam(rate), wall, 1.0, ts, throw=False).theta

    theta, back = jax.vjp(jax.vmap(last), jnp.array([0.001, 0.02]))
    assert np.isnan(theta[1, -1])
    assert np.isfinite(theta[0]).all()
    (slopes,) = back(jnp.zeros_like(theta).at[:, -1].set(1.0))
    assert np.isfinite(slopes[0])
    assert slopes[0] != 0
    assert np.isnan(slopes[1])


def test_compare_warns_of_a_solver_that_is_too_coarse():
    ts = np.arange(0.0, 1001.0, 100.0)
    model = ide.Adam(0.001)
    run = ide.run_discrete(model, ide.Quadratic(), 1.0, 1000, ts=ts.astype(int))
    rough = ide.Markov(diffrax.Tsit5(), rtol=0.03, atol=0.03)
    coarse = ide.solve(model, ide.Quadratic(), 1.0, ts, method=rough)
    with pytest.warns(UserWarning, match="The solver's error, .* exceeds half of the distance"):
        ide.compare(coarse, run)
    path = ide.solve(model, ide.Quadratic(), 1.0, ts)
    tight = ide.solve(model, ide.Quadratic(), 1.0, ts, method=ide.Markov(rtol=1e-9, atol=1e-12))
    estimate = ide.compare(path, run).solver_error  # and no warning
    assert float(ide.compare(path, tight).max_error) < float(estimate)


@pytest.mark.parametrize("given", [0.0, -1.0, np.nan])
def test_max_step_is_checked(given):
    with pytest.raises(ValueError, match="Argument `max_step` must be a positive number"):
        ide.Markov(max_step=given)


@pytest.mark.parametrize("given", [dict(max_step=1.0), dict(breakpoints=[3.0])], ids=str)
def test_a_flow_refuses_what_it_would_ignore(given):
    flow = ide.InterpolatingFlow(optax.sgd(0.01))
    with pytest.raises(ValueError, match=f"Argument `{next(iter(given))}` must be .* Interp"):
        ide.solve(flow, ide.Quadratic(), 1.0, np.arange(5.0), method=ide.Markov(**given))
