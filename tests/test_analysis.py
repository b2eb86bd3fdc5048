"""Decays and orders of data that were made from known ones."""

import numpy as np
import pytest

from idemodels._analysis import bound_decay, envelope, fit_decay, order

T = np.linspace(1.0, 8.0, 500)


@pytest.mark.parametrize(
    ("A", "omega", "B"), [(3.0, 1.7, 0.02), (0.5, 40.0, 0.1), (1e-3, 0.3, 0.0)]
)
def test_a_fit_recovers_a_decay(A, omega, B):
    found = fit_decay(T, A * np.exp(-omega * (T - 1.0)) + B)
    # a search for a minimum of a square finds its place to half of the digits
    np.testing.assert_allclose(found, (A, omega, B), rtol=1e-6, atol=1e-9)


def test_neither_amplitude_nor_floor_is_negative():
    falling = fit_decay(T, np.maximum(1.0 - 0.1 * (T - 1.0), 0.0))  # the best floor is below zero
    assert falling.floor == 0.0
    rising = fit_decay(T, T)
    assert (rising.amplitude, rising.floor) == (0.0, pytest.approx(np.mean(T)))


def test_a_bound_is_one():
    y = envelope(T, 2.0 * np.exp(-T) * (1.0 + 0.5 * np.sin(9.0 * T)), 0.8)
    bound = bound_decay(T, y, 2.0)
    assert np.all(bound.at(T) >= y * (1 - 1e-12))
    assert bound.floor == y[T >= 6.0].max()
    assert bound.rate == pytest.approx(1.0, rel=0.3)


def test_what_does_not_fall_has_no_bound():
    bound = bound_decay(T, T, 1.0)
    assert np.isnan(bound.rate)
    assert bound.floor == 8.0


def test_an_envelope_covers_its_window():
    t = np.arange(6.0)
    y = np.array([1.0, 5.0, 2.0, 0.0, 0.0, 3.0])
    np.testing.assert_array_equal(envelope(t, y, 2.0), [1.0, 5.0, 5.0, 5.0, 2.0, 3.0])


def test_order_is_a_slope_over_what_is_positive():
    x = np.array([0.1, 0.01, 0.001, 1e-4])
    assert order(x, 3.0 * x**1.5) == pytest.approx(1.5)
    assert order(x, np.array([0.2, 0.02, 0.0, np.nan])) == pytest.approx(1.0)
    assert np.isnan(order(x[:1], x[:1]))


@pytest.mark.parametrize(
    ("fit", "said"),
    [
        (lambda: fit_decay(T[:3], T[:3]), "must increase over 4 points or more, but has 3."),
        (lambda: fit_decay(T, T - 2.0), "`y` must not be negative, but has -1.0."),
        (lambda: bound_decay(T[::-1], T, 1.0), "`t` must increase"),
    ],
)
def test_what_is_no_decay_is_refused(fit, said):
    with pytest.raises(ValueError, match=said):
        fit()
