"""Sharpness along paths whose Hessian is known."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import Bowl

import idemodels as ide
from idemodels import analysis
from idemodels._analysis.linearize import point_of
from idemodels._analysis.rows import check_trajectory, rows_of
from idemodels._analysis.stability import _largest_by_matrix

CURVATURE = np.array([1.0, 40.0])
BOWL = ide.Quadratic(CURVATURE, 0.0)


def run(model, steps=60, **options):
    return ide.run_discrete(model, BOWL, jnp.ones(2), steps, **options)


@pytest.fixture(scope="module")
def adam():
    model = ide.Adam(0.1, b1=0.5, b2=0.9)
    path = run(model)
    return model, path, analysis.stability(model, BOWL, path)


def test_the_sharpness_is_that_of_the_hessian_and_the_moment(adam):
    _, path, found = adam
    s, v = np.arange(1, 61), np.asarray(path.moments["v"])[1:]
    P = (1 - 0.5 ** s[:, None]) * (np.sqrt(v / (1 - 0.9 ** s[:, None])) + 1e-8)
    assert np.isnan(found.ratio[0])  # the memories are empty
    np.testing.assert_allclose(found.sharpness[1:], 40.0, rtol=1e-12)
    np.testing.assert_allclose(found.preconditioned[1:], (CURVATURE / P).max(axis=1), rtol=1e-10)
    np.testing.assert_allclose(found.threshold[1:], 3.0 / (0.5 * 0.1), rtol=1e-9)


def test_where_it_crosses_is_between_the_rows_that_differ():
    ratio = np.array([np.nan, 0.5, 0.9, 1.1, 2.0, np.nan, 0.0])
    ones = np.ones(7)
    found = analysis.Stability(np.arange(7.0), ones, ratio, ones, "discrete")
    np.testing.assert_allclose(found.crossings, [2.5, 5.0])  # unknown rows are passed over
    assert found.first_crossing == pytest.approx(2.5)
    np.testing.assert_array_equal(found.above, [0, 0, 0, 1, 1, 0, 0])
    assert "at 40% of its rows, first crossed at step 2.5." in found.statement


def test_it_says_which_path_it_looked_at(adam):
    model, path, found = adam
    assert (path.source, found.source) == ("discrete", "discrete")
    assert "The path is the discrete algorithm's." in found.statement
    arrays = ide.Trajectory.from_arrays(path.ts, path.theta, path.moments)
    found = analysis.stability(model, BOWL, arrays)
    assert found.source == "arrays"
    assert "do not say whose it is" in found.statement


@pytest.mark.slow
def test_a_solved_path_has_no_bound_to_keep():
    model = ide.RMSProp(0.1, 0.9)
    path = ide.solve(model, BOWL, jnp.ones(2), np.arange(11.0), method=ide.Markov(dfx.Tsit5()))
    found = analysis.stability(model, BOWL, path)
    assert (path.source, found.source) == ("equation", "equation")
    assert "The equation has no such bound" in found.statement
    g, v = CURVATURE * np.asarray(path.theta), np.asarray(path.moments["v"])
    P = np.sqrt(0.9 * v + 0.1 * g * g) + 1e-8
    np.testing.assert_allclose(found.preconditioned[1:], (CURVATURE / P).max(axis=1)[1:], rtol=1e-9)


@pytest.mark.slow
def test_a_schedule_moves_the_threshold():
    model = ide.Adam(ide.Schedule(linear, first=0.1, per_step=0.01), b1=0.0)
    found = analysis.stability(model, BOWL, run(model, 5))
    np.testing.assert_allclose(found.threshold[1:], 2 / (0.1 + 0.01 * np.arange(1, 6)), rtol=1e-9)


def linear(s, first, per_step):
    return first + per_step * s


@pytest.mark.slow
def test_rows_past_a_failure_are_left_out(adam):
    model, path, _ = adam
    broken = jax.tree.map(
        lambda x: x.at[40:].set(jnp.nan) if x.ndim else x, (path.theta, path.moments)
    )
    found = analysis.stability(model, BOWL, ide.Trajectory.from_arrays(path.ts, *broken))
    np.testing.assert_array_equal(np.isfinite(found.ratio), (path.ts > 0) & (path.ts < 40))


@pytest.mark.slow
def test_many_parameters_are_followed_by_products_as_by_matrices():
    bowl, model = Bowl(402), ide.Adam(1e-2)
    path = ide.run_discrete(model, bowl, bowl.theta0, 40, ts=[0, 20, 40])
    found = analysis.stability(model, bowl, path)
    rows = rows_of(model, path)
    point = point_of(model, bowl, rows.first, None)
    largest, _ = _largest_by_matrix(point, *rows.take(np.array([1, 2])))
    # a relative residual of 1e-4 leaves its square over the gap
    np.testing.assert_allclose(found.sharpness[1:], largest[:, 0], rtol=1e-6)
    np.testing.assert_allclose(found.preconditioned[1:], largest[:, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda path: jax.tree.map(lambda x: x[None], path),
            r"must be one path, `ts` of shape \(T,\), but has shape \(1, 61\).",
        ),
        (
            lambda path: ide.Trajectory.from_arrays(path.ts, path.theta),
            "must have the moments of Adam, but has not 'm', 'v'. Solve without `save`.",
        ),
        (
            lambda path: run(ide.RMSProp(0.1)),
            "must have the moments of Adam, but has not 'm'. Is it another model's?",
        ),
        (
            lambda path: ide.Trajectory.from_arrays(path.ts, path.theta * jnp.nan, path.moments),
            "must have a row that is finite, but has none.",
        ),
        (
            lambda path: jax.tree.map(lambda x: x[:1] if x.ndim else x, path),
            "must have a finite row past s = 0",
        ),
    ],
)
def test_what_is_no_path_of_the_model_is_refused(adam, change, said):
    with pytest.raises(ValueError, match=said):
        analysis.stability(adam[0], BOWL, change(adam[1]))


def test_what_is_no_trajectory_is_refused():
    with pytest.raises(ValueError, match="`trajectory` must be a Trajectory, but is None."):
        check_trajectory(None)


@pytest.mark.slow
def test_a_direction_without_a_profile_is_refused():
    def rolled(s, theta, g, moments):
        return jnp.roll(g, 1)

    model = ide.MemoryModel({}, rolled, 0.1)
    with pytest.raises(ValueError, match="of one profile"):
        analysis.stability(model, BOWL, run(model, 3))


@pytest.mark.slow
def test_the_discrete_run_stays_at_the_edge_and_the_equation_goes_past_it():
    digits = ide.DigitsMLP()
    model = ide.RMSProp(1e-3, 0.99)
    ts = np.arange(0, 801, 20)
    path = ide.run_discrete(model, digits, digits.theta0, 800, ts=ts)
    method = ide.Markov(rtol=1e-4, atol=1e-7)
    flow = ide.solve(model, digits, digits.theta0, ts.astype(float), method=method)
    at_edge, past = (analysis.stability(model, digits, x).ratio[-10:] for x in (path, flow))
    assert np.all(np.abs(at_edge - 1) < 0.2)
    assert np.all(past > 1.5)
    assert flow.loss[-1] < path.loss[-1]
