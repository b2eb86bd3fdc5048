"""Laws of decay that are known are found, within their own intervals."""

import dataclasses

import diffrax as dfx
import jax.numpy as jnp
import numpy as np
import pytest

import idemodels as ide
from idemodels import analysis
from idemodels._analysis.rates import best, fit_laws

S = np.linspace(50.0, 500.0, 200)
# Of gradient flow on a parabola, of x' = -x^3 (x^4 / 4), and of a slow law.
KNOWN = {
    "quadratic": (3.0 * np.exp(-0.02 * S), "exponential", 0.02),
    "floor": (3.0 * np.exp(-0.03 * S) + 1e-4, "exponential with floor", 0.03),
    "quartic": (0.25 / (1 + 2 * 0.01 * S) ** 2, "power", 2.0),
    "root": (2.0 * S**-0.5, "power", 0.5),
}


@pytest.mark.parametrize("name", KNOWN)
def test_rates_lie_in_their_intervals_in_95_of_100_noisy_trials(name):
    y, law, rate = KNOWN[name]
    draw = np.random.default_rng(1)
    fits = [fit_laws(S, y * np.exp(0.03 * draw.normal(size=S.size)), 0.99) for _ in range(100)]
    inside = [fit[law].rate.low <= rate <= fit[law].rate.high for fit in fits]
    assert sum(inside) >= 95
    assert sum(best(fit) == law for fit in fits) >= 90
    widths = [fit[law].rate.high - fit[law].rate.low for fit in fits]
    assert np.median(widths) < 0.6 * rate  # an interval that says something


@pytest.mark.parametrize("name", KNOWN)
def test_without_noise_they_are_exact(name):
    y, law, rate = KNOWN[name]
    fits = fit_laws(S, y, 0.99)
    assert best(fits) == law
    assert fits[law].rate.value == pytest.approx(rate, rel=1e-6)
    np.testing.assert_allclose(fits[law].at(S), y, rtol=1e-6)


def test_scatter_that_goes_together_widens_the_interval():
    draw = np.random.default_rng(0)
    white = draw.normal(size=(60, S.size))
    smooth = np.stack([np.convolve(x, np.full(10, 10**-0.5), "same") for x in white])
    inside = lambda noise: sum(
        (fit := fit_laws(S, np.exp(-0.02 * S + 0.03 * x), 0.99)["exponential"].rate).low
        <= 0.02
        <= fit.high
        for x in noise
    )
    assert inside(smooth) >= 57


def path_of(loss, ts=S, theta=None):
    """A path that was made elsewhere, with its losses."""
    path = ide.Trajectory.from_arrays(ts, np.zeros(ts.size) if theta is None else theta)
    return dataclasses.replace(path, loss=jnp.asarray(loss))


def test_the_gap_is_above_the_minimum_and_rounding_ends_the_tail():
    ts = np.linspace(0.0, 100.0, 400)
    found = analysis.convergence(path_of(5.0 + np.exp(-0.7 * ts), ts), minimum=5.0)
    assert found.best == "exponential"
    assert found.fit.rate.value == pytest.approx(0.7, rel=1e-2)
    end = found.ts[found.fitted][-1]
    assert 40 < end < 50  # exp(-0.7 s) is 100 roundings of 6
    assert found.ts[found.fitted][0] >= 0.5 * end


def test_oscillation_is_hidden_by_a_window():
    ts = np.linspace(0.0, 100.0, 2001)
    loss = np.exp(-0.1 * ts) * np.cos(ts) ** 2
    found = analysis.convergence(path_of(loss, ts), window=2 * np.pi)
    assert found.fit.rate.value == pytest.approx(0.1, rel=0.05)
    assert found.source == "arrays"


def quartic(theta):
    return 0.25 * jnp.sum(theta**4)


def test_pl_and_kl_are_those_of_the_loss():
    x = np.geomspace(1.0, 1e-3, 60)
    ts = np.linspace(0.0, 59.0, 60)
    bowl = analysis.convergence(path_of(x**2, ts, x), objective=ide.Quadratic(3.0, 0.0), tail=1.0)
    assert bowl.pl == pytest.approx(3.0)  # of (c/2) x^2: c
    assert bowl.kl == pytest.approx(0.5)
    flat = analysis.convergence(path_of(x**4, ts, x), objective=quartic, tail=1.0)
    assert flat.kl == pytest.approx(0.75)
    assert flat.pl == pytest.approx(2e-6, rel=1e-3)  # x^6 / (2 x^4 / 4) at the end


@pytest.fixture(scope="module")
def adagrad():
    model = ide.AdaGrad(1.0)
    method = ide.Markov(dfx.Tsit5(), rtol=1e-9, atol=1e-12)
    path = ide.solve(model, ide.Quadratic(), 1.0, np.linspace(0, 60, 121), method=method)
    return model, path


def test_the_proved_rate_is_kept_and_is_that_by_hand(adagrad):
    model, path = adagrad
    found = analysis.convergence(path, model, ide.Quadratic())
    g, G = 2 * (np.asarray(path.theta) - 4), np.asarray(path.moments["G"])
    widest = np.max(np.sqrt(G + g * g)) + 1e-8
    np.testing.assert_allclose(found.bound, 9 * np.exp(-4 * found.ts / widest), rtol=1e-9)
    assert found.bound_holds
    assert all(h.holds for h in found.hypotheses)
    assert found.best.startswith("exponential")
    assert found.fit.rate.low > 0.9 * 4 / widest


def test_what_the_rate_assumes_is_told_where_it_fails(adagrad):
    model, path = adagrad
    run = ide.run_discrete(model, ide.Quadratic(), 1.0, 60)
    found = analysis.convergence(run, model, ide.Quadratic())
    assert found.source == "discrete"
    assert found.hypotheses[0].holds is False
    assert "not proved here" in found.notes[-1]
    decaying = analysis.convergence(path, ide.AdaGrad(1.0, lr_decay=0.1), ide.Quadratic())
    assert decaying.bound is None
    assert [h.holds for h in decaying.hypotheses if h.text.startswith("the learning")] == [False]


@pytest.mark.slow
def test_a_degenerate_minimum_has_no_pl_constant():
    model = ide.RMSProp(0.01, 0.99)
    ts = np.arange(0, 41, 2)
    run = ide.run_discrete(model, quartic, 1.0, 40, ts=ts)
    found = analysis.convergence(run, model, quartic, tail=1.0)
    assert [h.holds for h in found.hypotheses if h.text.startswith("PL")] == [False]


@pytest.mark.slow
def test_adam_has_no_proved_rate():
    model = ide.Adam(0.1)
    run = ide.run_discrete(model, ide.Quadratic(), 1.0, 40)
    found = analysis.convergence(run, model, ide.Quadratic(), window=10.0)
    assert found.bound is None
    assert found.notes == ("No rate is proved for Adam: its loss need not fall.",)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(tail=0.0), r"`tail` must lie in \(0, 1\], but is 0.0."),
        (dict(confidence=1.0), r"`confidence` must lie in \(0, 1\), but is 1.0."),
        (dict(window=-1.0), "`window` must be 0 or more, and finite, but is -1.0."),
        (dict(minimum=np.inf), "`minimum` must be finite, but is inf."),
        (dict(minimum=9.0), "must have 8 rows or more in its tail .* but has 0."),
        (dict(tail=0.01), "must have 8 rows or more in its tail .* but has 2."),
    ],
)
def test_arguments_are_told_by_name(options, said):
    with pytest.raises(ValueError, match=said):
        analysis.convergence(path_of(np.exp(-0.01 * S)), **options)


def test_a_path_without_losses_is_refused():
    with pytest.raises(ValueError, match="`trajectory` must have losses, but has none."):
        analysis.convergence(ide.Trajectory.from_arrays(S, np.zeros(S.size)))
