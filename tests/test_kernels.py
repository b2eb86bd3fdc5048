"""Kernels: closed form, state space and exact propagation are one and the same."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.special
from helpers import KERNELS, OTHER_KERNELS
from hypothesis import given, settings, strategies as st
from scipy.integrate import quad

import idemodels as ide

each_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=repr)
every_kernel = pytest.mark.parametrize("kernel", KERNELS + OTHER_KERNELS, ids=repr)
# rate times step, from far below rounding's reach to where everything is forgotten
products = st.floats(-8.0, np.log10(50.0)).map(lambda x: 10.0**x)
rates = st.floats(-4.0, 1.0).map(lambda x: 10.0**x)
degrees = st.integers(0, 6)
quick = settings(max_examples=60, deadline=None, derandomize=True)


@each_kernel
def test_closed_form_is_the_impulse_response_of_the_state_space(kernel):
    draw = np.random.default_rng(0)
    gaps, impulses = draw.uniform(0.1, 9.0, 40), draw.normal(size=40)
    A, B, C = (np.asarray(x) for x in kernel.state_space())
    z, recursive = np.zeros_like(B), []
    for gap, impulse in zip(gaps, impulses, strict=True):
        z = scipy.linalg.expm(A * gap) @ z + B * impulse
        recursive.append(C @ z)
    dense = np.asarray(kernel.matrix(jnp.cumsum(gaps))) @ impulses
    np.testing.assert_allclose(dense, recursive, rtol=0, atol=1e-12 * np.abs(dense).max())


@every_kernel
def test_kernel_is_zero_before_its_impulse(kernel):
    lags = jnp.array([-1e-300, -0.5, -1e3])
    np.testing.assert_array_equal(kernel.evaluate(lags), 0.0)
    np.testing.assert_array_equal(kernel.integral(lags), 0.0)
    for f in (kernel.evaluate, kernel.integral):
        assert np.all(np.asarray(jax.vmap(jax.grad(lambda s: f(s)))(lags)) == 0.0)


@every_kernel
@pytest.mark.parametrize("lag", [1e-8, 1e-3, 0.3, 3.0, 50.0, 2e3])
def test_integral_is_that_of_the_closed_form(kernel, lag):
    a = float(kernel.exponent)
    # in x = u^(1/a), where the singularity is gone, with 40 Gauss nodes on each of 45 octaves
    edges = np.concatenate([[0.0], lag * 2.0 ** np.arange(-45.0, 0.5)]) ** a
    nodes, heights = np.polynomial.legendre.leggauss(40)
    half = np.diff(edges)[:, None] / 2.0
    u = edges[:-1, None] + half * (1.0 + nodes)
    parts = half * heights * np.asarray(kernel.evaluate(u ** (1 / a))) * u ** (1 / a - 1) / a
    exact = float(kernel.integral(lag))
    # 1e-12 of the library's own rule, and the rounding of parts that may cancel
    assert abs(parts.sum() - exact) <= 2e-12 * np.abs(parts).sum()
    assert float(kernel.integral(0.0)) == 0.0


@every_kernel
def test_kernel_keeps_the_precision_of_its_lags_and_their_shape(kernel):
    lags = np.array([[0.5, 1.0], [3.0, 700.0]])
    for f in (kernel.evaluate, kernel.integral):
        double, single = f(lags), f(lags.astype(np.float32))
        assert (double.dtype, single.dtype) == (jnp.float64, jnp.float32)
        assert double.shape == single.shape == lags.shape
        # exp(-x) and powers magnify an ulp of the lag by the logarithm of the value
        np.testing.assert_allclose(single, double, rtol=2e-5, atol=1e-7)
        assert f(1.0).shape == f(1).shape == ()
        assert float(f(1)) == float(f(1.0))


@every_kernel
def test_derivatives_are_finite_where_the_kernel_is(kernel):
    params, static = eqx.partition(kernel, eqx.is_inexact_array_like)
    for lag in (0.0, 1e-6, 1.0, 1e4):
        for f in (lambda k, s: k.evaluate(s), lambda k, s: k.integral(s)):
            of_lag = jax.grad(lambda s: f(kernel, s))(lag)
            of_kernel = jax.grad(lambda p: f(eqx.combine(p, static), lag))(params)
            for leaf in jax.tree.leaves((of_lag, of_kernel)):
                assert np.all(np.isfinite(leaf))


def test_kernel_forgets_all_in_the_end():
    for rate in (0.1, 0.001):
        area = quad(lambda s: float(ide.Exponential(rate).evaluate(jnp.asarray(s))), 0, 60 / rate)
        assert abs(area[0] - 1.0) < 1e-7  # quad's own tolerance, 1.5e-8


def van_loan(kernel, h, degree):
    """E and the weights over h^j, by the exponential of one block matrix (Van Loan 1978).

    The input's states are the powers (tau/h)^j / j!, whose matrix is a nilpotent shift. They enter
    with a factor of 1 in the place of h B, so that a small weight is not lost beside 1.
    """
    A, B, _ = (np.asarray(x) for x in kernel.state_space())
    q = degree + 1
    block = np.zeros((1 + q, 1 + q))
    block[0, 0], block[0, 1] = A[0, 0] * h, 1.0
    block[1:q, 2:] = np.eye(q - 1)
    flow = scipy.linalg.expm(block)
    factorials = np.cumprod(np.concatenate([[1.0], np.arange(1.0, q)]))
    return flow[:1, :1], h * B[0] * (flow[:1, 1:] * factorials).T


@quick
@given(rate=rates, product=products, degree=degrees)
def test_propagator_is_a_matrix_exponential(rate, product, degree):
    kernel, h = ide.Exponential(rate), product / rate
    E, W = kernel.propagator(jnp.asarray(h), degree)
    expected = van_loan(kernel, h, degree)
    np.testing.assert_allclose(E, expected[0], rtol=1e-12, atol=1e-14)
    scale = h ** np.arange(degree + 1.0)[:, None]
    np.testing.assert_allclose(W / scale, expected[1], rtol=1e-12)


@quick
@given(product=products, degree=degrees)
def test_propagator_is_the_memory_integral(product, degree):
    _, W = ide.Exponential(1.0).propagator(jnp.asarray(product), degree)
    for j in range(degree + 1):
        # in the lag u, scaled: the integrand is concentrated within 40 of 0
        integrand = lambda u: np.exp(-u) * (1.0 - u / product) ** j
        exact = quad(integrand, 0.0, min(product, 40.0), epsabs=0.0, epsrel=1e-13, limit=200)[0]
        assert abs(float(W[j, 0]) / product**j - exact) <= 1e-12 * exact


@quick
@given(h=products, degree=degrees)
def test_constant_kernel_integrates_powers(h, degree):
    E, W = ide.Constant().propagator(jnp.asarray(h), degree)
    powers = np.arange(1, degree + 2)
    np.testing.assert_array_equal(E, np.ones((1, 1)))
    np.testing.assert_allclose(W[:, 0], h**powers / powers, rtol=1e-14)


@quick
@given(product=products, degree=degrees)
def test_propagator_in_float32_is_exact_to_its_rounding(product, degree):
    h = np.float32(product)
    E, W = ide.Exponential(1.0).propagator(jnp.asarray(h), degree)
    exact_E, exact_W = ide.Exponential(1.0).propagator(jnp.asarray(float(h)), degree)
    assert E.dtype == W.dtype == jnp.float32
    # up to fifty operations in a weight, and exp(-x) magnifies one ulp of x by x
    rtol = (50 + product) * float(np.finfo(np.float32).eps)
    np.testing.assert_allclose(E, exact_E, rtol=rtol, atol=1e-37)
    normal = np.abs(exact_W) > 1e-37
    np.testing.assert_allclose(W[normal], exact_W[normal], rtol=rtol)


@functools.partial(jax.jit, static_argnums=2)
def weight_slope(rate, h, degree):
    """The last weight's derivative in the rate."""
    return jax.grad(lambda r: ide.Exponential(r).propagator(h, degree)[1][-1, 0])(rate)


@quick
@given(product=products, degree=degrees)
def test_propagator_derivative_in_the_rate_is_the_integrals(product, degree):
    slope = weight_slope(jnp.asarray(1.0), jnp.asarray(product), degree)
    found = float(slope) / product**degree
    # d/dr of r exp(-r u) at r = 1 is (1 - u) exp(-u)
    integrand = lambda u: (1.0 - u) * np.exp(-u) * (1.0 - u / product) ** degree
    exact = quad(integrand, 0.0, min(product, 40.0), epsabs=1e-15, epsrel=1e-12, limit=200)[0]
    # terms of size up to product cancel, then 1e-12 of the largest
    assert abs(found - exact) <= 1e-12 * max(min(product, 1.0), product * 1e-2, abs(exact))


@each_kernel
def test_propagating_twice_is_propagating_once(kernel):
    draw = np.random.default_rng(1)
    n = kernel.init(jnp.zeros(3)).shape[0]
    state, c = jnp.asarray(draw.normal(size=(n, 3))), draw.normal(size=(4, 3))
    a, b = 0.7, 1.9
    later = np.polynomial.Polynomial([a, 1.0])
    shifted = np.array([np.polynomial.Polynomial(column)(later).coef for column in c.T]).T
    once = kernel.propagate(state, jnp.asarray(a + b), jnp.asarray(c))
    half = kernel.propagate(state, jnp.asarray(a), jnp.asarray(c))
    twice = kernel.propagate(half, jnp.asarray(b), jnp.asarray(shifted))
    np.testing.assert_allclose(twice, once, rtol=0, atol=1e-13 * float(np.abs(c).sum()) * 10)


@quick
@given(product=products, degree=degrees, slow=st.floats(0.0, 1e-3))
def test_sum_of_exponentials_propagates_each_rate(product, degree, slow):
    rates, weights = np.array([1.0, 0.0, slow]), np.array([0.7, -0.2, 3.0])
    E, W = ide.SumOfExponentials(weights, rates).propagator(jnp.asarray(product), degree)
    np.testing.assert_allclose(E, np.diag(np.exp(-rates * product)), rtol=1e-14)
    _, one = ide.Exponential(1.0).propagator(jnp.asarray(product), degree)
    np.testing.assert_allclose(W[:, 0], 0.7 * one[:, 0], rtol=1e-14)
    powers = np.arange(1, degree + 2)
    np.testing.assert_allclose(W[:, 1], -0.2 * product**powers / powers, rtol=1e-14)
    for j in range(degree + 1):
        integrand = lambda u: np.exp(-slow * u) * (1.0 - u / product) ** j
        exact = quad(integrand, 0.0, product, epsabs=0.0, epsrel=1e-13)[0] * product**j
        assert abs(float(W[j, 2]) - 3.0 * exact) <= 1e-12 * 3.0 * exact


def test_one_exponential_is_a_sum_of_one():
    rate, lags = 0.03, np.geomspace(1e-6, 1e3, 50)
    one, many = ide.Exponential(rate), ide.SumOfExponentials([rate], [rate])
    np.testing.assert_allclose(one.evaluate(lags), many.evaluate(lags), rtol=1e-15)
    np.testing.assert_allclose(one.integral(lags), many.integral(lags), rtol=1e-14)
    assert many.max_error is None


@pytest.mark.parametrize("a", [0.1, 0.5, 0.99, 1.0])
def test_power_law_is_the_fractional_integral(a):
    kernel, s = ide.PowerLaw(a), np.geomspace(1e-6, 1e4, 20)
    np.testing.assert_allclose(kernel.evaluate(s), s ** (a - 1) / math.gamma(a), rtol=1e-14)
    np.testing.assert_allclose(kernel.integral(s), s**a / math.gamma(a + 1), rtol=1e-14)
    assert float(kernel.evaluate(0.0)) == (1.0 if a == 1.0 else np.inf)
    assert float(kernel.exponent) == a


def test_power_law_derivative_in_its_order():
    s, a, step = 2.7, 0.6, 1e-5
    for name in ("evaluate", "integral"):
        f = lambda a: getattr(ide.PowerLaw(a), name)(s)
        difference = (float(f(a + step)) - float(f(a - step))) / (2 * step)
        assert abs(float(jax.grad(f)(a)) - difference) < 1e-9


class Stretched(eqx.Module):
    """exp(-(s/scale)^p), a kernel with a trainable leaf."""

    scale: jax.Array

    def __call__(self, s):
        return jnp.exp(-((s / self.scale) ** 2))


def test_function_kernel_against_closed_forms():
    s = np.geomspace(1e-9, 1e4, 40)
    rational = ide.FunctionKernel(lambda s: 1.0 / (1.0 + s) ** 2)
    np.testing.assert_allclose(rational.integral(s), s / (1.0 + s), rtol=1e-12)
    for a in (0.05, 0.3, 0.5, 1.0):
        kernel = ide.FunctionKernel(lambda s, a=a: s ** (a - 1.0) * jnp.exp(-s), exponent=a)
        exact = scipy.special.gammainc(a, s) * scipy.special.gamma(a)
        np.testing.assert_allclose(kernel.integral(s), exact, rtol=1e-12)
        assert kernel.exponent == a
        assert float(kernel.evaluate(0.0)) == (1.0 if a == 1.0 else np.inf)


def test_function_kernel_trains_and_takes_a_partial():
    def total(scale):
        return ide.FunctionKernel(Stretched(scale)).integral(50.0)

    value, slope = jax.value_and_grad(total)(jnp.asarray(3.0))
    assert abs(float(value) - 1.5 * math.sqrt(math.pi)) < 1e-12
    assert abs(float(slope) - 0.5 * math.sqrt(math.pi)) < 1e-11
    kernel = ide.FunctionKernel(jax.tree_util.Partial(lambda r, s: jnp.exp(-r * s), 0.5))
    np.testing.assert_allclose(kernel.evaluate(2.0), math.exp(-1.0), rtol=1e-15)
    assert jax.tree.leaves(kernel) == [0.5]
