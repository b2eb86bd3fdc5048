"""The second-order kernel is one smooth function of b, to rounding, also where its form changes."""

import functools
import itertools
from decimal import Decimal, localcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings, strategies as st
from scipy.integrate import quad

import idemodels as ide
from idemodels._equation import cast

quick = settings(max_examples=100, deadline=None, derandomize=True)
NEAR_HALF = [0.5] + [0.5 + sign * d for d in (1e-12, 1e-8, 1e-4, 1e-2) for sign in (1, -1)]
ELSEWHERE = [1e-3, 0.1, 0.3, 0.7, 0.9, 0.999, 0.999999]
LAGS = [1e-8, 1e-3, 0.1, 1.0, 1.9, 2.1, 3.9, 4.1, 10.0, 30.0, 55.0]


def by_hand(b, s):
    """K, its integral, dK/db, dK/ds and the size of what dK/db cancels, from power series.

    In 100 digits, so that no cancellation counts; they share no code and no formula with the
    library, where the forms of (E7) are taken apart.
    """
    with localcontext() as context:
        context.prec = 100
        b, s = Decimal(float(b)), Decimal(float(s))
        x = (2 * b - 1) * s * s
        term_s, term_c = Decimal(1), Decimal(1)
        sinh, cosh, slope = term_s, term_c, Decimal(0)  # sinh(kappa s)/(kappa s), and d/dx of it
        for n in range(1, 200):
            slope += n * term_s / ((2 * n) * (2 * n + 1))
            term_s *= x / ((2 * n) * (2 * n + 1))
            term_c *= x / ((2 * n) * (2 * n - 1))
            sinh, cosh = sinh + term_s, cosh + term_c
        decay, c = (-s).exp(), 1 - b
        value = 2 * c * s * decay * sinh
        integral = 1 - decay * (cosh + s * sinh)
        of_b = -2 * s * decay * sinh, 4 * c * s**3 * decay * slope
        of_s = 2 * c * decay * (cosh - s * sinh)
        return [float(y) for y in (value, integral, sum(of_b), of_s, sum(map(abs, of_b)))]


@pytest.mark.parametrize("b", NEAR_HALF + ELSEWHERE)
def test_value_integral_and_derivatives_are_right_to_rounding(b):
    kernel = ide.SecondOrder(b)
    for s in LAGS:
        value, integral, of_b, of_s, size = by_hand(b, s)
        # held as 1 - b, b itself is rounded at 1e-16
        stored = 2e-16 * size
        assert abs(float(kernel.evaluate(s)) - value) <= 1e-14 * abs(value) + stored
        assert abs(float(kernel.integral(s)) - integral) <= 2e-15 * integral
        # in b the two ways through which it enters cancel, and for a sine its argument is rounded
        found = float(jax.grad(lambda b: ide.SecondOrder(b).evaluate(s))(b))
        assert abs(found - of_b) <= 2e-14 * size * (1.0 if b >= 0.5 else 1.0 + s), (b, s)
        found = float(jax.grad(kernel.evaluate)(s))
        assert abs(found - of_s) <= 2e-14 * max(abs(of_s), abs(value)) + stored, (b, s)


@pytest.mark.parametrize("b", [0.3, 0.5, 0.5 + 1e-9, 0.8])
def test_second_derivative_in_b_is_that_of_differences(b):
    f = jax.grad(lambda b, s: ide.SecondOrder(b).evaluate(s))
    for s in (0.5, 2.0, 9.0):
        difference = (float(f(b + 1e-5, s)) - float(f(b - 1e-5, s))) / 2e-5
        found = float(jax.grad(f)(b, s))
        assert abs(found - difference) < 1e-6 * max(1.0, abs(found))


def test_long_memories_keep_their_slow_rate():
    for b in (0.99, 0.9999, 0.999999):
        c = 1.0 - b
        kappa = np.sqrt(1.0 - 2.0 * c)
        s = np.geomspace(100.0, 20.0 / c, 30)
        expected = (
            c / kappa * np.exp(-2.0 * c * s / (1.0 + kappa))
        )  # sinh's other half is below 1e-80
        np.testing.assert_allclose(ide.SecondOrder(b).evaluate(s), expected, rtol=1e-13)
    assert float(ide.SecondOrder(0.3).evaluate(1e6)) == 0.0  # no overflow on the way


def test_float32_is_exact_to_its_rounding(float32):
    for b in (0.2, 0.4999, 0.5, 0.5001, 0.9, 0.999):
        kernel = ide.SecondOrder(b)
        c = 1.0 - b
        for s in np.float32([1e-4, 0.1, 1.0, 3.0, 10.0, 40.0, 80.0]):
            value, integral, *_ = by_hand(b, s)
            found = kernel.evaluate(jnp.asarray(s))
            assert found.dtype == jnp.float32
            rounded = (20.0 + float(s)) * 6e-8
            assert abs(float(found) - value) <= rounded * 2 * c * float(s * np.exp(-s)) + (
                rounded * abs(value) + 1e-37
            )
            assert abs(float(kernel.integral(jnp.asarray(s))) - integral) <= 2e-6 * integral
    s = np.float32(1e4)
    kappa = np.sqrt(0.998)
    expected = 1e-3 / kappa * np.exp(-2e-3 * 1e4 / (1.0 + kappa))
    found = float(ide.SecondOrder(0.999).evaluate(jnp.asarray(s)))
    assert abs(found / expected - 1.0) < 1e-5


def test_b_reads_back():
    for b in (0.2, 0.5, 0.999):
        assert abs(float(ide.SecondOrder(b).b) - b) < 1e-16
    assert float(jax.jit(lambda b: ide.SecondOrder(b).b)(0.25)) == 0.25


@pytest.mark.parametrize("h", [1e-6, 0.1, 1.0, 5.0, 30.0, 1e3, 1e4])
@pytest.mark.parametrize("b", [0.01, 0.3, 0.5, 0.5 + 1e-9, 0.6, 0.9, 0.99, 0.9999])
def test_transition_is_the_matrix_exponential(b, h):
    kernel = ide.SecondOrder(b)
    A, B, C = kernel.state_space()
    np.testing.assert_array_equal(A, [[0.0, 1.0], [-2.0 * (1.0 - b), -2.0]])
    np.testing.assert_array_equal(B, [0.0, 2.0 * (1.0 - b)])
    np.testing.assert_array_equal(C, [1.0, 0.0])
    E, _ = kernel.propagator(jnp.asarray(h), 0)
    # scaling and squaring loses an ulp of |A h| before it squares
    np.testing.assert_allclose(
        E, scipy.linalg.expm(np.asarray(A) * h), rtol=0, atol=1e-15 * (8 + h)
    )


def closed_form(b, s):
    """(E7) as it is written, good where sinh and exp do not overflow and b is away from 1/2."""
    root = np.sqrt(complex(2.0 * b - 1.0))
    return (1.0 - b) * ((np.exp(-(1.0 - root) * s) - np.exp(-(1.0 + root) * s)) / root).real


@functools.partial(jax.jit, static_argnums=2)
def weights(b, h, degree):
    return ide.SecondOrder(b).propagator(h, degree)[1]


@quick
@given(
    b=st.one_of(st.floats(0.01, 0.45), st.floats(0.55, 0.99), st.just(0.999)),
    h=st.one_of(st.floats(-6.0, 5.0).map(lambda x: 10.0**x), st.floats(4.0, 40.0)),
)
def test_weights_are_memory_integrals(b, h):
    found = np.asarray(weights(b, h, 6)) / h ** np.arange(7.0)[:, None]
    # what happens within 45 of the slow rates, in pieces on the scale of the kernel
    slow = 1.0 if b < 0.5 else (1.0 - b)
    stop = min(h, 45.0 / slow)
    edges = np.linspace(0.0, stop, 2 + int(stop / 40.0) if stop < 4e3 else 120)
    edges = np.unique(np.concatenate([edges, [min(stop, 3.0), min(stop, 12.0)]]))
    moment = None
    for j in range(7):
        integrand = lambda u: closed_form(b, u) * (1.0 - u / h) ** j
        pieces = [
            quad(integrand, lo, hi, epsabs=1e-18, epsrel=1e-12, full_output=1)[0]
            for lo, hi in itertools.pairwise(edges)
        ]
        # the closed form by hand loses digits as kappa s does, down to 1e-16/(kappa h) of the whole
        rtol = 1e-12 + 2e-15 / min(h, 1.0)
        assert abs(found[j, 0] - sum(pieces)) <= rtol * np.abs(pieces).sum() + 1e-30, (j, pieces)
        # the slope's input, integrated by parts
        slope = closed_form(b, h) if j == 0 else j * moment / h
        assert abs(found[j, 1] - slope) <= rtol * (abs(slope) + 1e-3 / h) + 1e-30
        moment = sum(pieces)


def moments_by_hand(b, h, degree):
    """The moment's weights over h^j by the recursion, in enough digits that it loses none."""
    with localcontext() as context:
        context.prec = 400
        b, h = Decimal(float(b)), Decimal(float(h))
        c, x = 1 - b, (2 * b - 1) * h * h
        term_s, term_c = Decimal(1), Decimal(1)
        sinh, cosh = term_s, term_c
        for n in range(1, 300):
            term_s *= x / ((2 * n) * (2 * n + 1))
            term_c *= x / ((2 * n) * (2 * n - 1))
            sinh, cosh = sinh + term_s, cosh + term_c
        decay = (-h).exp()
        found = [1 - decay * (cosh + h * sinh)]
        for j in range(1, degree + 1):
            before = j * (j - 1) * found[-2] if j > 1 else 2 * c * h * decay * sinh
            found.append(h**j - (j * found[-1] + before / 2) / c)
        return np.array([float(y / h**j) for j, y in enumerate(found)])


@quick
@given(
    b=st.one_of(
        st.sampled_from(NEAR_HALF + ELSEWHERE), st.floats(1e-3, 0.9999), st.floats(0.49, 0.51)
    ),
    h=st.one_of(st.floats(-8.0, 1.9).map(lambda x: 10.0**x), st.floats(4.0, 60.0)),
)
def test_weights_are_right_to_rounding_for_every_b(b, h):
    found = np.asarray(weights(b, h, 6)) / h ** np.arange(7.0)[:, None]
    expected = moments_by_hand(b, h, 6)
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-13)
    np.testing.assert_allclose(found[1:, 1], np.arange(1, 7) * expected[:-1] / h, rtol=1e-13)


def test_a_constant_input_is_remembered_in_the_end():
    for b in (0.2, 0.5, 0.9, 0.999):
        kernel = ide.SecondOrder(b)
        _, W = kernel.propagator(jnp.asarray(1e5), 6)
        assert abs(float(kernel.integral(1e5)) - 1.0) < 1e-15
        # z = u = tau: m = h - 1/c, the lag behind a ramp is 1/c
        assert abs(float(W[1, 0]) - (1e5 - 1.0 / (1.0 - b))) < 1e-9


@pytest.mark.parametrize("b", [0.2, 0.5, 0.9, 0.999])
def test_propagator_derivatives_are_those_of_differences(b):
    for h in (1e-3, 1.0, 30.0, 500.0):
        f = lambda b, h: weights(b, h, 3)[3, 0] / h**3
        step_b, step_h = 1e-4 * (1 - b), 1e-4 * h
        slope_b, slope_h = jax.grad(f, (0, 1))(b, h)
        by_b = (float(f(b + step_b, h)) - float(f(b - step_b, h))) / (2 * step_b)
        by_h = (float(f(b, h + step_h)) - float(f(b, h - step_h))) / (2 * step_h)
        # the differences' own truncation, 1e-8 of the third derivative
        assert abs(float(slope_b) - by_b) < 1e-6 * abs(by_b) + 1e-12
        assert abs(float(slope_h) - by_h) < 1e-6 * abs(by_h) + 1e-12


@pytest.mark.parametrize("b", [0.2, 0.5, 0.9, 0.999])
def test_propagator_in_float32(b):
    for h in (1e-3, 0.5, 7.0, 23.0, 25.0, 300.0, 1e4):
        E, W = ide.SecondOrder(b).propagator(jnp.asarray(np.float32(h)), 4)
        exact_E, exact_W = ide.SecondOrder(b).propagator(jnp.asarray(float(np.float32(h))), 4)
        assert E.dtype == W.dtype == jnp.float32
        np.testing.assert_allclose(E, exact_E, rtol=0, atol=2e-6)
        np.testing.assert_allclose(W[:, 0], exact_W[:, 0], rtol=1e-5)
        np.testing.assert_allclose(W[1:, 1], exact_W[1:, 1], rtol=1e-5)


def test_a_complement_keeps_its_digits_in_single_precision(float32):
    kernel = ide.SecondOrderAdam(jnp.float32(0.1), b2=0.99999).memories()["v"].kernel
    found = np.asarray(jnp.asarray(kernel.complement, jnp.float32), float)
    np.testing.assert_allclose(found, 1e-5, rtol=1e-6)

    @jax.jit
    def traced(b2):
        model = cast(ide.SecondOrderAdam(0.1, b2=b2), jnp.float32)
        return model.memories()["v"].kernel.complement

    known = cast(ide.SecondOrderAdam(0.1, b2=0.99999), jnp.float32)
    held = jax.jit(lambda m: m.memories()["v"].kernel.complement)(known)
    np.testing.assert_allclose(float(held), 1e-5, rtol=1e-6)
    np.testing.assert_allclose(float(traced(jnp.float32(0.99999))), 1e-5, rtol=2e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "`b`, or `complement`, must be given, but neither is"),
        ({"b": 0.5, "complement": 0.5}, "`b`, or `complement`, must be given, but both are"),
        ({"complement": 1.5}, r"`complement` must lie in \(0, 1\), but is 1.5"),
        ({"b": 0.0}, r"`b` must lie in \(0, 1\), but is 0.0"),
    ],
)
def test_a_kernel_is_given_one_of_both(arguments, message):
    with pytest.raises(ValueError, match=message):
        ide.SecondOrder(**arguments)
