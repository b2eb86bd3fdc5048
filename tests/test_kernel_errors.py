"""Every kernel that is none names the argument, what it must be, and what it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import threadpoolctl

import idemodels as ide
from idemodels._kernel import check_kernel


@pytest.fixture(autouse=True)
def one_thread():
    """Beside other processes, threads make least squares of this size fifty times slower."""
    with threadpoolctl.threadpool_limits(1):
        yield


def fit(kernel=None, horizon=100.0, tol=1e-4, **options):
    kernel = ide.PowerLaw(0.5) if kernel is None else kernel
    return ide.fit_exponentials(kernel, horizon, tol, **options)


Function, Sum = ide.FunctionKernel, ide.SumOfExponentials
CASES = {
    "b zero": (lambda: ide.SecondOrder(0.0), r"`b` must lie in \(0, 1\), but is 0.0"),
    "b one": (lambda: ide.SecondOrder(1.0), r"`b` must lie in \(0, 1\), but is 1.0"),
    "b nan": (lambda: ide.SecondOrder(np.nan), r"`b` must lie in \(0, 1\), but is nan"),
    "b array": (lambda: ide.SecondOrder([0.1, 0.2]), r"`b` must be a scalar, .* \(2,\).*vmap"),
    "a zero": (lambda: ide.PowerLaw(0.0), r"`a` must lie in \(0, 1\], but is 0.0"),
    "a above": (lambda: ide.PowerLaw(1.5), r"`a` must lie in \(0, 1\], but is 1.5"),
    "a text": (lambda: ide.PowerLaw("half"), "`a` must be a number, but is 'half'"),
    "weights scalar": (lambda: Sum(1.0, [1.0]), r"`weights` must have one axis .* shape \(\)"),
    "rates matrix": (lambda: Sum([1.0], [[1.0]]), r"`rates` must have one axis .* \(1, 1\)"),
    "none": (lambda: Sum([], []), r"`weights` must have one axis and a value, .* \(0,\)"),
    "lengths": (lambda: Sum([1.0], [1.0, 2.0]), "same length, but have 1 and 2"),
    "rates below": (lambda: Sum([1.0, 1.0], [1.0, -2.0]), "`rates` must not be negative, .* -2.0"),
    "weights nan": (lambda: Sum([np.nan], [1.0]), "`weights` must be finite, but is .*nan"),
    "rates text": (lambda: Sum([1.0], "fast"), "`rates` must be a list of numbers, but is 'fast'"),
    "f number": (lambda: Function(2.0), "`f` must be callable, but is 2.0"),
    "f vector": (
        lambda: Function(lambda s: jnp.stack([s, s])),
        r"`f` must return a scalar for a scalar lag, but returns shape \(2,\)",
    ),
    "f nan": (
        lambda: Function(lambda s: jnp.sqrt(3.0 - s)),
        "`f` must be finite and not negative, but is nan at lag 3.16",
    ),
    "f negative": (
        lambda: Function(lambda s: 1.0 - s),
        "`f` must be finite and not negative, but is -0.778 at lag 1.78",
    ),
    "f infinite": (
        lambda: Function(lambda s: jnp.exp(s)),
        "`f` must be finite and not negative, but is inf at lag 1e\\+03",
    ),
    "f singular": (
        lambda: Function(lambda s: s**-0.5),
        r"`f` must be finite .* but is inf at lag 0\. .* pass `exponent=a`, 0 < a < 1",
    ),
    "f undefined at 0": (
        lambda: Function(lambda s: jnp.sin(s) ** 2 / s),
        "`f` must be finite and not negative, but is nan at lag 0",
    ),
    "exponent zero": (
        lambda: Function(jnp.exp, exponent=0.0),
        r"`exponent` .*\(0, 1\], but is 0.0",
    ),
    "exponent above": (lambda: Function(jnp.exp, exponent=2), r"`exponent` .*\(0, 1\], but is 2"),
    "exponent text": (lambda: Function(jnp.exp, exponent="a"), "`exponent` .* but is 'a'"),
    "fit of a function": (
        lambda: fit(lambda s: s),
        r"`kernel` must be a kernel .*FunctionKernel\(",
    ),
    "horizon zero": (lambda: fit(horizon=0.0), "`horizon` must be positive and finite, but is 0.0"),
    "horizon nan": (lambda: fit(horizon=np.nan), "`horizon` must be positive and finite, .* nan"),
    "horizon text": (lambda: fit(horizon="long"), "`horizon` must be a number, but is 'long'"),
    "tol zero": (lambda: fit(tol=0.0), "`tol` must be positive and finite, but is 0.0"),
    "tol below": (lambda: fit(tol=-1e-3), "`tol` must be positive and finite, but is -0.001"),
    "tol above": (lambda: fit(tol=1.0), "`tol` must be less than 1, but is 1.0"),
    "shortest": (lambda: fit(shortest=-1.0), "`shortest` must be positive and finite, but is -1.0"),
    "tol too tight": (
        lambda: fit(ide.SecondOrder(0.2), horizon=10.0, tol=1e-13),
        "`tol` must be one that 120 exponentials reach, but is 1e-13: the best error is .*, with "
        ".* terms. Raise `tol`, shorten `horizon` or raise `shortest`; .*History",
    ),
    "nothing yet": (
        lambda: fit(Function(lambda s: jnp.where(s > 5.0, 1.0, 0.0))),
        "`shortest` must be a lag by which the kernel has some weight, but up to 1 it is zero",
    ),
}


@pytest.mark.parametrize(("make", "message"), CASES.values(), ids=CASES.keys())
def test_bad_argument(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_traced_kernel_cannot_be_fitted():
    with pytest.raises(ValueError, match=r"`kernel` must be concrete, but is traced.*outside"):
        jax.jit(lambda a: fit(ide.PowerLaw(a)).weights)(0.5)
    with pytest.raises(ValueError, match=r"`kernel` must be concrete, but is traced.*outside"):
        jax.grad(lambda r: fit(Function(lambda s: jnp.exp(-r * s))).weights[0])(0.5)
    with pytest.raises(ValueError, match=r"`horizon` must be known, but is traced"):
        jax.jit(lambda horizon: fit(horizon=horizon).weights)(10.0)


def test_traced_hyperparameters_are_not_checked():
    lag = 0.7
    for make in (
        ide.SecondOrder,
        ide.PowerLaw,
        lambda a: Sum(jnp.stack([a, a]), jnp.stack([a, a])),
        lambda a: Function(lambda s: jnp.exp(-a * s)),
    ):
        found = jax.jit(lambda a: make(a).evaluate(lag))(0.4)
        np.testing.assert_allclose(found, make(jnp.asarray(0.4)).evaluate(lag), rtol=1e-14)


BAD_WHEN_TRACED = {
    "exponential": (ide.Exponential, -0.5),
    "second order": (ide.SecondOrder, 1.5),
    "rates": (lambda a: Sum(jnp.ones(2), jnp.stack([a, jnp.abs(a)])), -0.5),
    "weights": (lambda a: Sum(jnp.stack([a, a]), jnp.ones(2)), jnp.nan),
    "power law": (ide.PowerLaw, 1.7),
}


@pytest.mark.parametrize(
    "name",
    [n if n == "rates" else pytest.param(n, marks=pytest.mark.slow) for n in BAD_WHEN_TRACED],
)
def test_a_traced_value_that_is_not_allowed_is_a_result(name):
    make, bad = BAD_WHEN_TRACED[name]
    assert not jax.jit(lambda a: make(a).valid())(bad)
    assert jax.jit(lambda a: make(a).valid())(0.5)
    direction = lambda s, theta, g, moments: moments["m"]

    @jax.jit
    def result(a):
        model = ide.MemoryModel({"m": ide.Memory(make(a), lambda g: g)}, direction, 0.1)
        method = ide.History(steps=4) if name == "power law" else ide.Markov(max_steps=9)
        ts = np.array([0.0, 1.0])
        return ide.solve(model, ide.Quadratic(), 1.0, ts, method=method, throw=False).result

    assert result(bad) == ide.RESULTS.invalid_argument
    assert result(0.5) != ide.RESULTS.invalid_argument


@pytest.mark.parametrize(
    ("f", "exponent", "message"),
    [
        (lambda s: 0.1 / s, 0.5, r"but grows like s\*\*-1.00 .* Its integral is infinite"),
        (lambda s: s**-0.9, 0.5, r"no faster than .* `exponent`, 0.5, but .* Pass `exponent=0.10`"),
    ],
)
def test_a_function_more_singular_than_its_exponent_is_refused(f, exponent, message):
    with pytest.raises(ValueError, match=message):
        Function(f, exponent=exponent)


def test_any_kernel_is_checked_at_lags_of_ones_own():
    lags = np.linspace(0.0, 10.0, 5)
    for kernel in (ide.PowerLaw(0.5), ide.PowerLaw(1.0), ide.SecondOrder(0.2), ide.Constant()):
        check_kernel(kernel, lags)
    gap = Function(lambda s: jnp.where((s > 4.0) & (s < 4.2), jnp.nan, 1.0))
    check_kernel(gap, lags)
    message = "Argument `kernel` must be finite and not negative, but is nan at lag 4.1"
    with pytest.raises(ValueError, match=message):
        check_kernel(gap, [1.0, 4.1])
    spike = Sum([1e300, 1e300], [0.0, 0.0])
    check_kernel(spike, lags)
    with pytest.raises(ValueError, match="`kernel` must be finite, but is inf at lag 0"):
        check_kernel(Sum([1e308, 1e308], [0.0, 1.0]), lags)
