"""Kernels: closed form, state space and exact propagation are one and the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from helpers import KERNELS
from hypothesis import given, settings, strategies as st
from scipy.integrate import quad

import idemodels as ide

each_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=repr)
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


@each_kernel
def test_kernel_is_zero_before_its_impulse(kernel):
    lags = jnp.array([-1e-300, -0.5, -1e3])
    np.testing.assert_array_equal(kernel.evaluate(lags), 0.0)
    assert np.all(np.asarray(jax.vmap(jax.grad(lambda s: kernel.evaluate(s)))(lags)) == 0.0)


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
    state, c = jnp.asarray(draw.normal(size=(1, 3))), draw.normal(size=(4, 3))
    a, b = 0.7, 1.9
    later = np.polynomial.Polynomial([a, 1.0])
    shifted = np.array([np.polynomial.Polynomial(column)(later).coef for column in c.T]).T
    once = kernel.propagate(state, jnp.asarray(a + b), jnp.asarray(c))
    half = kernel.propagate(state, jnp.asarray(a), jnp.asarray(c))
    twice = kernel.propagate(half, jnp.asarray(b), jnp.asarray(shifted))
    np.testing.assert_allclose(twice, once, rtol=0, atol=1e-13 * float(np.abs(c).sum()) * 10)
