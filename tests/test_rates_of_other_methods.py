"""Learning rates that jump or swing, by `History` and `FixedPoint`, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from told import Told

import idemodels as ide

SLOW = pytest.mark.slow
RATES = {
    "sine 3": (lambda s: 0.01 * (1.0 + jnp.sin(2.0 * jnp.pi * s / 3.0)), ()),
    "pulse": (
        lambda s: 1e-3 + jnp.where((s >= 40.25) & (s < 42.75), 0.05, 0.0),
        (40.25, 42.75),
    ),
}
TS = np.sort(np.concatenate([np.linspace(0, 100, 41), 100 * np.random.default_rng(0).random(20)]))


def linear(theta):
    return 1.0 * theta


def integral(function, breaks):
    """From 0 to each of `TS`, by Gauss's rule between whole steps, breaks and `TS`."""
    edges = np.unique(np.concatenate([TS, np.arange(101.0), breaks]))
    x, w = np.polynomial.legendre.leggauss(20)
    half = 0.5 * np.diff(edges)
    values = jax.vmap(function)(jnp.asarray((edges[:-1, None] + half[:, None] * (1 + x)).ravel()))
    total = np.append(0.0, np.cumsum(half * (np.asarray(values).reshape(-1, 20) @ w)))
    return total[np.searchsorted(edges, TS)]


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("method", [ide.History(), ide.History(steps=77)], ids=["unit", "77"])
def test_a_constant_gradient_by_history_moves_as_the_rate_is_integrated(name, method):
    alpha, breaks = RATES[name]
    wanted = 1.0 - integral(alpha, breaks)
    model = ide.Adam(alpha, rate="matched", eps=1e-12)
    path = ide.solve(model, linear, 1.0, TS, method=Told(method, breaks))
    # eps moves the direction by 1e-12
    np.testing.assert_allclose(path.theta, wanted, rtol=0, atol=1e-11 * np.ptp(wanted))


def advanced(alpha):
    return ide.RMSProp(alpha, 0.9, reading="advanced")


@pytest.mark.slow
@pytest.mark.parametrize("name", RATES)
def test_a_constant_gradient_by_fixed_point_keeps_its_tolerance(name):
    alpha, breaks = RATES[name]
    u = lambda s: alpha(s) / (jnp.sqrt(-jnp.expm1(-0.1 * (s + 1.0))) + 1e-8)
    wanted = 1.0 - integral(u, breaks)
    path = ide.solve(advanced(alpha), linear, 1.0, TS, method=Told(ide.FixedPoint(), breaks))
    np.testing.assert_allclose(path.theta, wanted, rtol=0, atol=1e-8 * np.ptp(wanted))


@pytest.mark.slow
def test_a_pulse_that_fixed_point_does_not_know_is_refused():
    method = Told(ide.FixedPoint(), ())
    solve = lambda ts: ide.solve(
        advanced(RATES["pulse"][0]), linear, 1.0, ts, method=method, throw=False
    )
    assert jax.jit(solve)(jnp.asarray(TS)).result == ide.RESULTS.mesh_too_coarse


def test_an_empty_array_is_refused_by_fixed_point_and_solved_by_history():
    loss = lambda theta: jnp.sum((theta["a"] - 1.0) ** 2)
    theta0, ts = {"a": jnp.zeros(2), "b": jnp.zeros((0, 3))}, np.arange(0.0, 21.0, 5.0)
    with pytest.raises(ValueError, match=r"`theta0` must have no empty arrays .* \(0, 3\)"):
        ide.solve(advanced(0.05), loss, theta0, ts)
    given = loss, theta0, ts
    path = ide.solve(ide.RMSProp(0.05), *given, method=ide.History())
    alone = ide.solve(ide.RMSProp(0.05), loss, {"a": jnp.zeros(2)}, ts, method=ide.History())
    np.testing.assert_allclose(path.theta["a"], alone.theta["a"], rtol=1e-12)
