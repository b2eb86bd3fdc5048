"""What the studies make of paths that were made by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from idemodels import Adam, SecondOrderAdam, TiltedDoubleWell, Trajectory, run_discrete
from idemodels._analysis.published_scheme import published_scheme
from idemodels._plot import Pair, Side, rendered
from idemodels._study import (
    STUDIES,
    basins,
    error_table,
    files,
    loss_gap,
    order_gap,
    positivity,
    shifted_start,
    velocity,
)

K = np.arange(101.0)


def side(theta, rate, loss, moments=None, **stats):
    """A path on the steps `K`, on the host."""
    path = Trajectory.from_arrays(K, theta, moments)
    times, loss = jnp.asarray(rate * K), jnp.asarray(loss)
    path = dataclasses.replace(path, times=times, loss=loss, stats=stats)
    return jax.device_get(Side(path, np.asarray(theta)))


def pair(theta, rate=0.05, discrete=0.0, loss=None, stats=None, objective=None, **values):
    loss = np.zeros(K.size) if loss is None else loss
    discrete = side(np.full(K.size, discrete), rate, loss)
    equation = side(np.asarray(theta, float), rate, loss, **(stats or {}))
    published = values.pop("published", np.nan)
    values = {"model": "adam", "learning_rate": rate, **values}
    error = np.abs(np.asarray(equation.path.theta) - np.asarray(discrete.path.theta))
    return Pair(values, equation, discrete, np.arange(K.size), error, objective, published, 0.0)


def named(made, **values):
    return dataclasses.replace(made, values={**made.values, **values})


def test_the_largest_error_stands_beside_that_of_the_last_point():
    hump = lambda rate: rate * np.sin(np.pi * K / 100) + rate**2 * K / 100
    pairs = [pair(hump(rate), rate, published=7.0) for rate in (0.1, 0.001, 0.01)]
    pairs = [dataclasses.replace(one, also_published={"loss": 5.0}) for one in pairs]
    found = error_table("x", pairs, ["learning_rate"])
    assert [row["learning_rate"] for row in found.rows] == [0.001, 0.01, 0.1]
    assert found.rows[0]["largest"] == pytest.approx(1e-3, rel=1e-2)
    assert found.rows[0]["last"] == pytest.approx(1e-6)
    assert (found.rows[0]["at step"], found.rows[0]["last step"]) == (50, 100)
    assert "slope 1.0" in found.notes[0]
    assert "2.00 of the last" in found.notes[0]
    assert (found.rows[0]["last in loss"], found.rows[0]["published in loss"]) == (0.0, 5.0)


def test_velocities_are_compared_with_rest_after_the_first_layer():
    rest = pair(np.zeros(K.size), velocity0=0.0)
    layer = np.where(K * 0.05 < 1.0, 5.0, 0.25)
    moving = pair(layer, velocity0=2.0, published=0.2)
    moving = dataclasses.replace(moving, also_published={"loss": 0.3})
    alone = pair(layer, 0.1, velocity0=2.0)  # nothing at rest to compare it with
    (row,) = velocity("x", [moving, rest, alone], ["learning_rate", "velocity0"]).rows
    assert (row["velocity0"], row["theta"], row["published"]) == (2.0, 0.25, 0.2)
    assert row["published loss"] == 0.3


def test_the_layer_ends_where_it_ends_but_for_rounding():
    # the times are sums of learning rates: that of the last of ten steps may lie below 1
    rest = pair(np.zeros(K.size), velocity0=0.0)
    moving = pair(np.where(K == 20, 7.0, 0.0), velocity0=1.0)
    for given, seen in ((1.0 - 1e-12, 7.0), (1.0 - 0.02, 0.0)):
        path = moving.equation.path
        times = jnp.where(K == 20, given, path.times)
        equation = dataclasses.replace(moving.equation, path=dataclasses.replace(path, times=times))
        late = dataclasses.replace(moving, equation=equation)
        (row,) = velocity("x", [rest, late], ["learning_rate", "velocity0"]).rows
        assert row["theta"] == seen


def test_wells_are_told_apart_by_the_hump():
    objective = TiltedDoubleWell(4.0)
    ends = [
        pair(np.full(K.size, x), rate, discrete=-0.85, objective=objective)
        for x, rate in ((-0.2, 0.01), (-0.1, 0.1))
    ]  # the hump is at -0.1464
    found = basins("x", ends, ["learning_rate"])
    assert [row["same well"] for row in found.rows] == ["yes", "no"]
    assert [row["swing"] for row in found.rows] == [0.0, 0.0]
    # roots of 2 (x - 1) + 16 x (x^2 - 1), by hand: 1, and (-2 -+ sqrt(2)) / 4
    assert found.notes == ["Minima at -0.8536, 1.0000; humps at -0.1464."]


def test_a_loss_gap_that_is_a_decay_is_found():
    t = 0.05 * K
    decay = pair(np.zeros(K.size), loss=3.0 * np.exp(-2.0 * t) + 0.5, published=2.1)
    more = {"A": 7.0, "B": 0.5, "discrete omega": 2.2}
    decay = dataclasses.replace(decay, also_published=more)
    equation, discrete = loss_gap("x", [decay], []).rows
    # over a window of three points the largest value is the first
    assert equation["omega"] == pytest.approx(2.0, rel=1e-3)
    assert equation["B"] == pytest.approx(0.5, rel=1e-3)
    assert (equation["published"], discrete["path"]) == (2.1, "discrete run")
    assert (equation["published A"], discrete["published"]) == (7.0, 2.2)


def test_the_second_moment_is_sure_up_to_a_step():
    sure = {"positivity_guaranteed": K <= 30, "moments": {"v": np.where(K > 0, K - 3.0, 0.0)}}
    with_lemma = pair(np.exp(-0.1 * K), model="second_order_adam", b2=0.2, stats=sure)
    (row,) = positivity("x", [with_lemma, pair(np.zeros(K.size))], ["model"]).rows
    assert (row["sure until s"], row["least v"], row["times v < 0"]) == (30, -2.0, 2)


def test_second_order_is_compared_with_first_order_of_the_same_values():
    cases = (
        (0.999, 1.0, "adam"),
        (0.999, 1.5, "second_order_adam"),
        (0.2, 1.3, "second_order_adam"),  # has no partner
    )
    pairs = [
        named(pair(np.full(K.size, x), 0.1, model=model, b2=b2), objective="x", b1=0.9)
        for b2, x, model in cases
    ]
    (row,) = order_gap("x", pairs, []).rows
    assert (row["distance"], row["first: error"], row["second: error"]) == (0.5, 1.0, 1.5)
    assert row["regime"] == pytest.approx(100.0)  # alpha / (1 - b2)
    assert row["2 b2 - 1"] == pytest.approx(0.998)


def test_starts_are_compared_with_the_usual_one():
    pairs = [pair(np.full(K.size, 0.1 + shift), shift=shift) for shift in (1.0, 0.0)]
    usual, shifted = shifted_start("x", pairs, ["shift"]).rows
    assert (usual["start"], shifted["start"]) == (0.0, 1.0)
    assert shifted["from usual start"] == pytest.approx(1.0)
    assert np.isnan(usual["from usual start"])


def test_what_lies_between_a_curve_of_the_source_and_the_discrete_run_has_names():
    steps, marks = 60, np.arange(7) * 10
    model, objective = Adam(0.01, 0.99, 0.999), TiltedDoubleWell(1.5)
    theirs = published_scheme(model, lambda x: 2 * (x - 1) + 6 * x * (x * x - 1), -1.5, steps)
    run = run_discrete(model, objective, -1.5, steps)
    end = Side(jax.device_get(run), None)
    curve = tuple(theirs[5 * marks] + 1e-7)
    values = {"model": "adam", "learning_rate": 0.01, "objective": "tilted_double_well(c=1.5)"}
    at, error = np.arange(steps + 1), np.zeros(steps + 1)
    usual = Pair(values, end, end, at, error, objective, model=model, curve=curve)
    cases = [named(usual, shift=x) for x in (0.0, 1.0)]
    (row,) = files("x", cases, ["shift"]).rows
    assert row["left over"] == pytest.approx(1e-7, rel=1e-3)
    assert np.isnan(row["moments ahead"])
    # the stand-in for the equation is the discrete run itself
    assert row["start at s = 1"] == row["model error"] == 0.0
    assert row["Euler's step"] == pytest.approx(row["to the discrete run"], rel=1e-3)
    assert row["to the equation"] == row["to the discrete run"] > 1e-3


# Theta of every hundredth row, five rows a step, of the authors' files for c = 1.5, b1 = .99,
# b2 = .999, alpha = .05 and from -1.5: github.com/carlosherediapimienta/nonlocal-adam,
# notebooks/results_1rst_order and, with initial velocity 1, notebooks/results_2nd_order.
THEIRS = {
    Adam: [
        -1.5000000,
        -0.6617658,
        -0.0023556,
        0.6166558,
        1.2406874,
        1.4017416,
        1.1148709,
        0.7870775,
        0.6111097,
        0.6074249,
        0.7440585,
    ],
    SecondOrderAdam: [
        -1.5000000,
        -0.6616750,
        0.0006354,
        0.6268373,
        1.2544083,
        1.3957421,
        1.0980692,
        0.7727011,
        0.6057456,
        0.6124231,
        0.7586014,
    ],
}


@pytest.mark.parametrize("kind", THEIRS)
def test_a_scheme_like_the_authors_repeats_their_rows(kind):
    given = {"velocity0": 1.0} if kind is SecondOrderAdam else {}
    model = kind(0.05, 0.99, 0.999, **given)
    gradient = lambda x: 2 * (x - 1) + 6 * x * (x * x - 1)
    rows = published_scheme(model, gradient, -1.5, 200)[::100]
    np.testing.assert_allclose(rows, THEIRS[kind], rtol=0, atol=1e-6)
    # neither from s = 0 nor, of second order, with the moments where the equation has them
    elsewhere = published_scheme(model, gradient, -1.5, 200, start=0.0)[::100]
    assert np.abs(elsewhere - THEIRS[kind]).max() > 0.01
    here = published_scheme(model, gradient, -1.5, 200, ahead=False)[::100]
    assert (np.abs(here - THEIRS[kind]).max() > 0.01) == (kind is SecondOrderAdam)


# These analyse paths: their tests are beside those of the analysis.
ANALYSES = {"edge", "theorems", "rates", "agreement", "strides"}


@pytest.mark.parametrize("name", [name for name in STUDIES if name not in ANALYSES])
def test_a_study_of_one_case_has_a_figure(name):
    stats = {"positivity_guaranteed": K <= 30, "moments": {"v": 1.0 + K}}
    values = dict(velocity0=1.0, shift=0.0, b1=0.9, b2=0.2, stats=stats)
    one = pair(1.0 + 0.01 * K, objective=TiltedDoubleWell(4.0), **values)
    one = named(one, objective="x")
    found = STUDIES[name]("x", [one], ["learning_rate"])
    assert rendered(found.figure, "svg")
    assert all(row.keys() == found.rows[0].keys() for row in found.rows)
