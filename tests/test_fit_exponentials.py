"""Fits of exponentials keep the error that they state, by integrals that share no code."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import threadpoolctl
from scipy.integrate import cumulative_trapezoid, quad

import idemodels as ide


@pytest.fixture(autouse=True)
def one_thread():
    """Beside other processes, threads make least squares of this size fifty times slower."""
    with threadpoolctl.threadpool_limits(1):
        yield


def power_law(a):
    exact = lambda s: s ** (a - 1.0) / math.gamma(a)
    return ide.PowerLaw(a), exact, lambda s: s**a / math.gamma(a + 1.0)


def exponential(d):
    return ide.Exponential(d), lambda s: d * np.exp(-d * s), lambda s: -np.expm1(-d * s)


def rational():
    kernel = ide.FunctionKernel(lambda s: 1.0 / (1.0 + s) ** 2)
    return kernel, lambda s: (1.0 + s) ** -2.0, lambda s: s / (1.0 + s)


def tempered(a):
    f = lambda s: s ** (a - 1.0) * jnp.exp(-s / 50.0)
    total = lambda s: 50.0**a * scipy.special.gamma(a) * scipy.special.gammainc(a, s / 50.0)
    exact = lambda s: s ** (a - 1.0) * np.exp(-s / 50.0)
    return ide.FunctionKernel(f, exponent=a), exact, total


def second_order(b):
    kappa = math.sqrt(2.0 * b - 1.0)
    slow, fast = 2.0 * (1.0 - b) / (1.0 + kappa), 1.0 + kappa
    exact = lambda s: (1.0 - b) / kappa * (np.exp(-slow * s) - np.exp(-fast * s))
    total = lambda s: (fast * -np.expm1(-slow * s) + slow * np.expm1(-fast * s)) / (2.0 * kappa)
    return ide.SecondOrder(b), exact, total


CASES = [
    (power_law(0.5), 1e4, 1.0, (1e-2, 1e-4, 1e-6, 1e-8)),
    (power_law(0.9), 1e4, 1.0, (1e-4, 1e-8)),
    (power_law(0.3), 1e4, 1.0, (1e-2, 1e-4, 1e-6)),
    (power_law(0.5), 1e4, 1e4, (1e-6,)),
    (power_law(0.5), 0.5, 1.0, (1e-4,)),
    (rational(), 1e3, 1.0, (1e-4, 1e-8)),
    (tempered(0.6), 1e3, 0.1, (1e-5,)),
    (exponential(0.1), 1e4, 1.0, (1e-4, 1e-8)),
    (second_order(0.9), 1e3, 1.0, (1e-3, 1e-6)),
    (second_order(0.999), 1e5, 1.0, (1e-3, 1e-6)),
]
RUNS = {
    f"{type(case[0][0]).__name__}-{i}-{tol:g}": (*case[:3], tol)
    for i, case in enumerate(CASES)
    for tol in case[3]
}
each_run = pytest.mark.parametrize("name", RUNS)


@functools.cache
def fitted(name):
    """Once for all tests of a process."""
    (kernel, *_), horizon, shortest, tol = RUNS[name]
    return ide.fit_exponentials(kernel, horizon, tol, shortest=shortest)


def by_hand(fit, s):
    return np.exp(-np.multiply.outer(s, fit.rates)) @ fit.weights


@each_run
def test_the_stated_error_is_the_error(name):
    (kernel, exact, total), horizon, shortest, tol = RUNS[name]
    fit = fitted(name)
    assert isinstance(fit, ide.SumOfExponentials)
    assert fit.max_error is not None
    assert fit.max_error <= tol
    shortest = min(shortest, horizon)
    # |K - K_fit| over the logarithm of the lag, from where what is left out is bounded
    start = shortest * (1e-4 * tol) ** (1.0 / float(kernel.exponent))
    y = np.linspace(math.log(start), math.log(horizon), 60_001)
    gap = np.concatenate([np.abs(exact(s) - by_hand(fit, s)) for s in np.split(np.exp(y[:-1]), 60)])
    gap = np.append(gap, np.abs(exact(horizon) - by_hand(fit, np.array(horizon)))) * np.exp(y)
    before = total(start) + abs(float(fit.integral(start)))
    error = before + cumulative_trapezoid(gap, y, initial=0.0)
    s = np.exp(y)
    worst = np.max((error / total(s))[s >= shortest * (1.0 - 1e-9)])
    # the trapezoid's own error at the corners of |.|, and the bound on the start on either side
    assert 0.9 * fit.max_error - 0.02 * tol <= worst <= 1.01 * fit.max_error
    assert worst <= 1.01 * tol


@pytest.mark.parametrize("a", [0.3, 0.5, 0.9])
def test_the_moment_of_a_feature_is_right_to_the_tolerance(a):
    tol = 1e-5
    fit = ide.fit_exponentials(ide.PowerLaw(a), 1e4, tol)
    for s in (1.0, 37.0, 1e3, 1e4):
        omega = 5.0 / s
        # quad has the weight (s - u)^(a-1) built in
        cosine = lambda u: math.cos(omega * u)
        exact = quad(cosine, 0.0, s, weight="alg", wvar=(0.0, a - 1.0), epsrel=1e-12)[0]
        exact /= math.gamma(a)
        each = (np.exp(1j * omega * s) - np.exp(-fit.rates * s)) / (fit.rates + 1j * omega)
        found = float(fit.weights @ each.real)
        assert abs(found - exact) <= tol * s**a / math.gamma(a + 1.0)
        # and in the library's own hands: exact propagation of a constant
        _, W = fit.propagator(jnp.asarray(s), 0)
        assert abs(float(W.sum()) / (s**a / math.gamma(a + 1.0)) - 1.0) <= tol


def test_a_mixture_of_exponentials_has_positive_weights_at_moderate_tolerances():
    for kernel in (ide.PowerLaw(0.5), ide.PowerLaw(0.3), rational()[0]):
        fit = ide.fit_exponentials(kernel, 1e4, 1e-2)
        assert np.all(fit.weights > 0)


@each_run
def test_terms_hardly_cancel(name):
    """So that a solve loses at most two digits to it."""
    (_, _, total), horizon, _, _ = RUNS[name]
    fit = fitted(name)
    assert fit.weights.size <= 120
    assert np.all(np.diff(fit.rates) > 0) or fit.rates.size == 1
    parts = np.abs(fit.weights) * -np.expm1(-fit.rates * horizon) / fit.rates
    assert parts.sum() <= 100.0 * total(horizon)


def test_terms_grow_with_the_logarithm_of_the_tolerance():
    sizes = [ide.fit_exponentials(ide.PowerLaw(0.5), 1e4, 10.0**-n).rates.size for n in (2, 4, 6)]
    assert sizes == sorted(sizes)
    assert sizes[-1] <= 72  # as measured: so that a change that costs terms is seen


def test_the_fit_is_in_double_whatever_the_precision_around_it():
    double = ide.fit_exponentials(ide.PowerLaw(0.5), 1e3, 1e-6)
    with jax.enable_x64(False):
        single = ide.fit_exponentials(ide.PowerLaw(0.5), 1e3, 1e-6)
        inside = jax.jit(lambda s: ide.fit_exponentials(ide.PowerLaw(0.5), 1e3, 1e-6).evaluate(s))
        value = inside(jnp.asarray(2.0))
    assert single.max_error == double.max_error
    np.testing.assert_array_equal(single.weights, double.weights)
    assert value.dtype == jnp.float32
    # an error of 1e-6 in the integral allows more pointwise
    assert abs(float(value) - 1.0 / math.sqrt(2.0 * math.pi)) < 1e-4
