"""The error against the learning rate, beside that of single runs; and the table of theorems."""

import diffrax as dfx
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import idemodels as ide
from idemodels import analysis
from idemodels._analysis.agreement import _marks, predicted

QUICK = ide.Markov(dfx.Tsit5(), rtol=1e-8, atol=1e-11)
ALPHAS = (0.1, 0.05, 0.025)
OVER = {"b2": (0.9, 0.999), "b1": (0.5,)}


@pytest.fixture(scope="module")
def adam():
    model = ide.Adam(0.3, b1=0.9, b2=0.99)
    return analysis.agreement(
        model, ide.Quadratic(), 1.0, ALPHAS, 4.0, OVER, method=QUICK, marks=30, recheck=False
    )


@pytest.mark.slow
def test_the_errors_are_those_of_single_runs(adam):
    assert adam.steps.tolist() == [40, 80, 160]
    (marks,) = _marks(np.array([80]), 30)
    ts = marks.astype(float)
    for b2, b1, found in (
        (0.99, 0.9, adam.fixed_betas.error[1]),
        (0.995, 0.95, adam.fixed_memory.error[1]),  # 1 - b is halved with the rate
        (0.999, 0.5, None),
    ):
        model = ide.Adam(0.05, b1, b2)
        path = ide.solve(model, ide.Quadratic(), 1.0, ts, method=QUICK)
        difference = ide.compare(path, ide.run_discrete(model, ide.Quadratic(), 1.0, 80, ts=ts))
        if found is None:
            assert adam.map[1, 0, 1] == pytest.approx(float(difference.relative_error), rel=1e-5)
        else:
            assert found == pytest.approx(float(difference.max_error), rel=1e-5)


def test_the_slopes_stand_beside_the_predicted_ones(adam):
    assert adam.alphas.tolist() == sorted(ALPHAS, reverse=True)
    assert 0.6 < adam.fixed_betas.slope < 1.2
    assert 0.9 < adam.fixed_memory.slope < 1.1
    assert adam.fixed_betas.predicted_slope == pytest.approx(1.0)
    assert adam.fixed_memory.predicted_slope == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(adam.fixed_betas.predicted, np.array([10.0, 5.0, 2.5]))
    np.testing.assert_allclose(adam.fixed_memory.decays["b1"], [0.9, 0.95, 0.975])


def test_the_map_has_an_axis_for_each_decay_and_grades(adam):
    assert list(adam.over) == ["b1", "b2"]  # in the model's order
    assert adam.map.shape == (3, 1, 2)
    assert set(np.unique(adam.grade)) <= {0.01, 0.1, np.inf}
    np.testing.assert_array_equal(adam.grade == 0.01, adam.map <= 0.01)
    assert (adam.grade == 0.01).any()
    assert (adam.grade == 0.1).any()


def test_the_predicted_order_is_the_largest_of_three():
    alphas = np.array([0.1, 0.01])
    decays = {"b1": np.array([0.9, 0.99]), "b2": np.array([0.5, 0.5])}
    np.testing.assert_allclose(predicted(alphas, decays), [1.0, 1.0])
    np.testing.assert_allclose(predicted(alphas, {"decay": np.array([0.9, 0.9])}), [1.0, 0.1])
    np.testing.assert_allclose(predicted(alphas, {}), alphas)


@pytest.mark.parametrize("steps", [[4, 4000], [30, 31], [100, 100_000]])
def test_marks_increase_from_zero_to_each_end(steps):
    marks = _marks(np.array(steps), 30)
    assert marks.shape[0] == 2
    assert np.all(np.diff(marks, axis=1) >= 1)
    np.testing.assert_array_equal(marks[:, 0], 0)
    np.testing.assert_array_equal(marks[:, -1], steps)


@pytest.mark.slow
def test_a_second_solve_bounds_the_solver_and_one_program_does_for_all(monkeypatch):
    traces = []

    def bowl(theta):
        traces.append(None)
        return (theta - 4.0) ** 2

    found = analysis.agreement(ide.AdaGrad(0.1), bowl, 1.0, (0.1, 0.05), 2.0, method=QUICK)
    few = len(traces)
    assert np.all(found.fixed_betas.solver_error < 1e-3 * found.fixed_betas.error)
    assert found.map is found.grade is None
    np.testing.assert_array_equal(found.fixed_betas.error, found.fixed_memory.error)
    traces.clear()
    alphas = (0.1, 0.05, 0.04, 0.03, 0.02)
    analysis.agreement(ide.AdaGrad(0.1), bowl, 1.0, alphas, 2.0, method=QUICK)
    assert len(traces) <= few  # lanes are a dimension, not programs


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(alphas=(0.1,)), r"`alphas` must have two or more positive learning rates, but is"),
        (dict(alphas=(0.1, -0.1)), "`alphas` must have two or more positive"),
        (dict(horizon=0.0), "`horizon` must be positive and finite, but is 0.0."),
        (dict(horizon=0.3), "must be at least 4 steps of the largest rate, 0.4, but is 0.3."),
        (dict(over={"decay": (0.9,)}), "names of the model's decays, 'b1', 'b2', but has 'decay'."),
        (dict(over={"b1": (1.0,)}), r"`over` must have 'b1' in \[0, 1\), but has"),
        (dict(marks=0), "`marks` must be a positive integer, but is 0."),
        (
            dict(model=ide.Adam(optax.constant_schedule(0.1))),
            "must have a constant learning rate, which `alphas` replace, but has",
        ),
    ],
)
def test_arguments_are_told_by_name(options, said):
    given = dict(model=ide.Adam(0.1), objective=ide.Quadratic(), theta0=1.0)
    given |= dict(alphas=(0.1, 0.05), horizon=2.0) | options
    with pytest.raises(ValueError, match=said):
        analysis.agreement(**given)


@pytest.fixture(scope="module")
def tables():
    """Of RMSProp's equation and of its discrete run, on the paper's parabola."""
    model, objective = ide.RMSProp(0.01, 0.99), ide.Quadratic()
    ts = np.arange(0.0, 401.0, 4.0)
    path = ide.solve(model, objective, 1.0, ts, method=QUICK)
    run = ide.run_discrete(model, objective, 1.0, 400, ts=ts)
    return [analysis.theorems(model, objective, x) for x in (path, run)]


@pytest.mark.slow
def test_each_theorem_has_hypotheses_bound_and_measurement(tables):
    descent, lasalle, rate, edge = tables[0]
    assert "Heredia (2024), arXiv:2411.09734" in descent.name
    assert descent.applies
    assert descent.kept
    assert lasalle.applies
    assert lasalle.kept
    assert rate.applies
    assert rate.kept
    assert "mu = 2" in rate.row()["hypotheses"]
    assert not edge.applies  # it is about the other path
    assert "arXiv:2207.14484" in edge.name
    assert edge.bound.endswith("below 200")
    assert all(row.row().keys() == edge.row().keys() for row in tables[0])


@pytest.mark.slow
def test_along_the_discrete_run_those_of_the_equation_do_not_apply(tables):
    descent, lasalle, rate, edge = tables[1]
    assert [row.applies for row in (descent, lasalle, rate)] == [False] * 3
    assert descent.hypotheses[0].found == "iterates of the discrete algorithm"
    assert edge.hypotheses[0].holds
    assert edge.hypotheses[1].holds is None  # how slowly v changes a path does not tell
    assert not edge.applies


def test_without_a_theorem_the_table_says_so():
    def plain(s, theta, g, moments):
        return g

    model = ide.MemoryModel({}, plain, 0.1)
    run = ide.run_discrete(model, ide.Quadratic(), jnp.ones(()), 20)
    rows = analysis.theorems(model, ide.Quadratic(), run)
    assert [row.name for row in rows] == ["no theorem for this model", "LaSalle: |g| tends to 0"]
    assert rows[0].row()["kept"] == "-"


@pytest.mark.slow
def test_rates_over_a_grid_are_those_of_single_paths():
    over = {"decay": [0.99, 0.999], "learning_rate": [0.02, 0.01]}
    rows = analysis.rate_table(ide.RMSProp(0.1), ide.Quadratic(), 1.0, 200, over, method=QUICK)
    assert len(rows) == 8
    assert [row["path"] for row in rows] == ["equation", "discrete"] * 4
    for row in (rows[3], rows[4]):
        model = ide.RMSProp(row["learning_rate"], row["decay"])
        if row["path"] == "equation":
            path = ide.solve(model, ide.Quadratic(), 1.0, np.arange(201.0), method=QUICK)
        else:
            path = ide.run_discrete(model, ide.Quadratic(), 1.0, 200)
        fit = analysis.convergence(path, objective=ide.Quadratic()).fit
        assert row["law"] == fit.law
        assert row["rate"] == pytest.approx(fit.rate.value, rel=1e-4)
        assert row["low"] < row["rate"] < row["high"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(steps=0), "`steps` must be a positive integer, but is 0."),
        (dict(over={}), "`over` must have a list of numbers for each name, but is {}."),
        (dict(over={"b3": [0.9]}), "`over` must have names of what there is, .* but has 'b3'."),
    ],
)
def test_arguments_of_a_rate_table_are_told_by_name(options, said):
    given = dict(model=ide.Adam(0.1), objective=ide.Quadratic(), theta0=1.0)
    given |= dict(steps=10, over={"b1": [0.9]}) | options
    with pytest.raises(ValueError, match=said):
        analysis.rate_table(**given)
