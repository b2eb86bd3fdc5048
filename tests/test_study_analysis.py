"""The studies that analyse paths, on short ones."""

import diffrax as dfx
import jax
import numpy as np
import pytest

import idemodels as ide
from idemodels._plot import Pair, Side, rendered
from idemodels._study import STUDIES
from idemodels._study.base import plain, telling

BOWL = ide.Quadratic(2.0, 4.0)
K = np.zeros(1)
SIDE = Side(ide.Trajectory.from_arrays(K, K), K)
METHOD = ide.Markov(dfx.Tsit5(), rtol=1e-8, atol=1e-11)
MODELS = {
    "rmsprop": lambda alpha, b: ide.RMSProp(alpha, b),
    "adam": lambda alpha, b: ide.Adam(alpha, b2=b),
}


def pair(kind, alpha, b, steps=40, solved=True):
    model, ts = MODELS[kind](alpha, b), np.arange(steps + 1.0)
    run = ide.run_discrete(model, BOWL, 1.0, steps)
    path = ide.solve(model, BOWL, 1.0, ts, method=METHOD) if solved else run
    equation, discrete = jax.device_get([Side(x, 2 * (x.theta - 4)) for x in (path, run)])
    error = np.abs(equation.path.theta - discrete.path.theta)
    name = "decay" if kind == "rmsprop" else "b2"
    values = {"model": kind, "learning_rate": alpha, name: b}
    at = np.arange(steps + 1)
    return Pair(values, equation, discrete, at, error, BOWL, np.nan, 0.0, model)


@pytest.fixture(scope="module")
def pairs():
    return [pair("rmsprop", 0.1, b) for b in (0.9, 0.99)]


def checked(name, pairs, keys):
    found = STUDIES[name]("x", pairs, keys)
    assert rendered(found.figure, "svg")
    assert all(row.keys() == found.rows[0].keys() for row in found.rows)
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in found.figure.axes)
    return found


def test_rates_are_per_unit_of_time_beside_the_proved_bound():
    pairs = [pair("rmsprop", 0.1, b, solved=False) for b in (0.9, 0.99)]
    found = checked("rates", pairs, ["decay"])
    assert len(found.rows) == 4
    assert {row["path"] for row in found.rows} == {"equation", "discrete run"}
    assert all(row["from"] <= row["rate per t, or exponent"] <= row["to"] for row in found.rows)
    assert found.rows[0]["kept"] == "yes"
    assert found.rows[0]["PL mu"] == pytest.approx(2.0)


@pytest.mark.slow
def test_the_edge_is_looked_at_on_both_paths(pairs):
    found = checked("edge", pairs, ["decay"])
    assert [row["path"] for row in found.rows] == ["equation", "discrete run"] * 2
    assert [row["case"] for row in found.rows[::2]] == ["rmsprop decay=0.9", "rmsprop decay=0.99"]
    assert all(row["threshold"] == pytest.approx(20.0) for row in found.rows)
    assert sum("The path is the equation's" in note for note in found.notes) == 2


@pytest.mark.slow
def test_theorems_stand_beside_the_path_that_they_are_about(pairs):
    found = checked("theorems", [*pairs, pair("adam", 0.1, 0.99)], ["model", "decay", "b2"])
    about = {(row["case"], row["path"]) for row in found.rows}
    assert len(about) == 6
    runs = [row for row in found.rows if row["path"] == "discrete run"]
    assert all("arXiv:2207.14484" in row["theorem"] for row in runs)
    # a short path does not tell that it is bounded, which LaSalle assumes
    known = [row for row in found.rows if not row["theorem"].startswith("LaSalle")]
    equation = [row for row in known if row["path"] == "equation"]
    assert {row["applies"] for row in equation} == {"yes"}
    assert {row["hypotheses"] for row in equation} == {"all hold"}


@pytest.mark.slow
def test_the_agreement_of_a_case_has_slopes_and_a_map():
    found = checked("agreement", [pair("rmsprop", 0.1, 0.9)], ["model"])
    assert len(found.rows) == 12
    assert found.notes[0].startswith("RMSProp, fixed decays: slope 0.")
    assert found.rows[0]["steps"] == 40
    assert all(row["solver error"] < 0.1 * row["error"] for row in found.rows)


def test_a_study_names_what_tells_cases_of_one_model_apart():
    of = lambda model, **values: Pair({"model": model, **values}, SIDE, SIDE, K, K)
    mixed = [of("adam", b2=0.9), of("rmsprop", b=0.5), of("rmsprop", b=0.9)]
    assert telling(mixed, ["model", "b", "b2"]) == ["model", "b"]
    assert plain(mixed[1], ["model", "b"]) == "rmsprop b=0.5"
    assert plain(mixed[0], ["model", "b"]) == "adam"
