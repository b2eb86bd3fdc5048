"""Figures of small paths."""

import dataclasses

import jax
import numpy as np
import pytest

from idemodels import AdaGrad, Adam, Quadratic, RMSProp, compare, run_discrete
from idemodels._cli.work import between
from idemodels._plot import FIGURES, Pair, Side, draw, rendered

KEYS = ["model", "learning_rate", "b1", "b2", "decay"]


def pair(optimizer, start=1.0, steps=8, **values):
    """The discrete run against itself, a little shifted."""
    path = run_discrete(optimizer, Quadratic(), np.asarray(start), steps)
    moved = dataclasses.replace(path, theta=path.theta + 1e-3)
    error = np.asarray(compare(moved, path).error)
    gradient = lambda path: 2.0 * (path.theta - 4.0)
    moved, path = jax.device_get([Side(moved, gradient(moved)), Side(path, gradient(path))])
    values = {"learning_rate": float(optimizer.learning_rate), **values}
    return Pair(values, moved, path, np.arange(steps + 1), error)


def panels(figure):
    return [axes for axes in figure.axes if axes.lines]


def test_a_column_for_each_learning_rate_and_the_legend_below():
    pairs = [pair(Adam(lr, 0.9, b2), b2=b2) for lr in (0.1, 0.01) for b2 in (0.9, 0.99)]
    figures = draw("Adam", pairs, KEYS)
    assert [len(panels(figures[name])) for name in figures] == [2, 4, 2, 2, 2]
    assert tuple(figures) == FIGURES
    assert figures["gradient"].axes[0].get_ylabel() == "$g$"
    assert list(draw("Adam", pairs, KEYS, ["loss"])) == ["loss"]
    figure = figures["paths"]
    rendered(figure, "png")  # places everything
    (legend,) = figure.legends
    below = legend.get_window_extent().y1
    assert all(axes.get_tightbbox().y0 >= below - 1 for axes in panels(figure))
    shown = [text.get_text() for text in legend.get_texts()]
    assert {"equation", "discrete run", "$b_2$ = 0.9", "$b_2$ = 0.99"} <= set(shown)


def test_the_same_case_has_the_same_colour_in_all_figures():
    pairs = [pair(Adam(0.1, 0.9, b2), b2=b2) for b2 in (0.9, 0.99)]
    figures = draw("Adam", pairs, KEYS)
    of_line = lambda axes: [line.get_color() for line in axes.lines if line.get_linestyle() == "-"]
    colours = {tuple(of_line(axes)) for figure in figures.values() for axes in panels(figure)}
    assert len(colours) == 1


def test_models_of_different_learning_rates_and_moments_leave_no_holes():
    pairs = [pair(Adam(0.1), model="adam"), pair(RMSProp(0.1), model="rmsprop")]
    pairs.append(pair(AdaGrad(0.01), model="adagrad"))
    figures = draw("three", pairs, KEYS)
    assert [axes.get_ylabel() for axes in figures["moments"].axes] == ["$m$", "$v$", "$G$"]


def test_equal_paths_do_not_break_the_logarithmic_axis():
    equal = pair(Adam(0.1), start=4.0)  # at rest in the minimum
    nothing = np.zeros_like(equal.error)
    equal = dataclasses.replace(equal, equation=equal.discrete, error=nothing)
    figure = draw("at rest", [equal], KEYS)["error"]
    assert rendered(figure, "svg")


def test_a_network_is_drawn_by_its_way_and_a_few_parameters():
    figures = draw("vector", [pair(Adam(0.1), start=np.linspace(0.0, 3.0, 7))], KEYS)
    labels = [axes.get_ylabel() for axes in figures["paths"].axes]
    assert labels == [r"$\|\theta - \theta_0\|_2$", r"$\theta$ [0]", r"$\theta$ [1]"]


def test_the_same_paths_give_the_same_file():
    files = [rendered(draw("x", [pair(Adam(0.1))], KEYS)["loss"], "svg") for _ in range(2)]
    assert files[0] == files[1]


@pytest.mark.parametrize(("steps", "every", "points"), [(50, 1, 501), (10, 3, 7), (20, 1, 5)])
def test_points_between_the_marks_keep_the_marks(steps, every, points):
    marks = np.append(np.arange(0, steps, every), steps)
    ts, at = between(marks, points)
    assert ts.size == max(points, marks.size)
    np.testing.assert_array_equal(ts[at], marks)
    assert np.all(np.diff(ts) > 0)
