"""Studies that differentiate through a run, as functions and as a user calls them."""

import json
import os
import subprocess
import sys

import diffrax as dfx
import jax
import numpy as np
import pytest

import idemodels as ide
from idemodels._config import ConfigError, is_derivative, read_config, read_derivative, shipped
from idemodels._hyper import horizon, split, tune

HYPER = """
title = "tuned"
steps = 20
objective = { kind = "digits_mlp", hidden = [4] }
model = { kind = "adam", learning_rate = 0.003 }

[hyper]
names = ["learning_rate", "b2"]
updates = 2
"""
HORIZON = """
title = "ahead"
steps = 60
every = 20
objective = { kind = "quadratic" }
theta0 = 1.0
model = { kind = "rmsprop", learning_rate = [0.01, 2.0], reading = "causal" }

[horizon]
change = 0.02
"""


@pytest.fixture(scope="module")
def parts():
    return split(ide.DigitsMLP(hidden=(3,)), 0.25)


def test_the_images_are_parted_without_overlap(parts):
    rows = [np.asarray(part.x) for part in (parts.train, parts.tune, parts.test)]
    assert [len(x) for x in rows] == [899, 449, 449]
    everything = np.asarray(ide.DigitsMLP().x)
    sort = lambda x: x[np.lexsort(x.T)]
    np.testing.assert_array_equal(sort(np.concatenate(rows)), sort(everything))


@pytest.mark.slow
def test_a_slope_is_that_of_the_loss_and_the_descent_is_adam(parts):
    start, method = parts.train.theta0, ide.Markov(rtol=1e-8, atol=1e-11)
    names, told = ("learning_rate", "b1"), []
    given = (ide.Adam(0.003), parts, start, 20, names, 3, 0.1, method)
    found = tune(*given, tell=told.append)
    assert found.failure == ""
    assert len(told) == 4
    assert told[0].startswith("update 0: loss")

    @jax.jit
    def last(rate, b1):
        model, ts = ide.Adam(rate, b1), np.array([0.0, 20.0])
        path = ide.solve(model, parts.train, start, ts, method=method)
        return parts.tune(jax.tree.map(lambda x: x[-1], path.theta))

    h, logit = 1e-4, np.log(0.1 / 0.9)
    by_rate = [last(0.003 * np.exp(d), 0.9) for d in (-h, h)]
    by_decay = [last(0.003, 1.0 / (1.0 + np.exp(logit + d))) for d in (-h, h)]
    for name, (low, high) in (("learning_rate", by_rate), ("b1", by_decay)):
        np.testing.assert_allclose(found.slopes[name][0], (high - low) / (2 * h), rtol=1e-5)
    np.testing.assert_allclose(found.equation[0], last(0.003, 0.9), rtol=1e-8)
    # Adam's first step is of the size of its rate, against the slope
    moved = np.log(found.values["learning_rate"][1] / found.values["learning_rate"][0])
    np.testing.assert_allclose(moved, -0.1 * np.sign(found.slopes["learning_rate"][0]), rtol=1e-4)
    assert np.all(np.diff(found.equation) < 0)
    np.testing.assert_allclose(found.discrete, found.equation, rtol=0.05)
    assert np.all((found.accuracy > 0) & (found.accuracy < 1))


def test_a_training_that_fails_ends_the_descent_and_is_told(parts):
    method = ide.Markov(dfx.Tsit5(), max_steps=3)
    given = (ide.Adam(0.003), parts, parts.train.theta0, 20, ("learning_rate",), 3, 0.1, method)
    found = tune(*given)
    assert len(found.equation) == 0
    assert "not solved at update 0" in found.failure
    assert "max_steps" in found.failure


def test_a_derivative_that_misses_a_change_is_of_no_use():
    # By hand, gradient descent: loss = (1 - a)^(2k), of which d / d ln a grows with k.
    memories = {"m": ide.Memory(ide.Exponential(1.0), feature=lambda g: g)}
    model = ide.MemoryModel(memories, lambda s, theta, g, moments: g, 0.1)
    objective = ide.Quadratic(curvature=1.0, minimum=0.0)
    ts, method = np.array([0, 50, 100, 150]), ide.Markov(rtol=1e-6, steady_tol=None)
    equation, discrete = horizon(model, objective, 1.0, ts, "learning_rate", 0.1, method)
    assert equation.okay
    assert discrete.okay
    for side, decay in (
        (equation, lambda a: np.exp(-2 * a * ts)),
        (discrete, lambda a: (1 - a) ** (2 * ts)),
    ):
        np.testing.assert_allclose(side.loss, 0.5 * decay(0.1), rtol=1e-3, atol=1e-30)
        h = np.log1p(0.1)
        secant = 0.5 * (decay(0.1 * np.exp(h)) - decay(0.1 * np.exp(-h))) / (2 * h)
        np.testing.assert_allclose(side.secant, secant, rtol=1e-2, atol=1e-30)
        assert side.missed[0] == 0.0
        assert side.missed[1] < side.missed[2] < side.missed[3]
        assert side.missed[-1] > 0.1
    slope = -0.1 * ts * np.exp(-0.2 * ts)
    np.testing.assert_allclose(equation.slope[:3], slope[:3], rtol=1e-3)


@pytest.mark.slow
def test_a_decay_has_a_horizon_too():
    given = ide.Adam(0.01), ide.Quadratic(), 1.0, np.array([0, 20, 40])
    equation, discrete = horizon(*given, "b2", 1e-4, ide.Markov(rtol=1e-9, atol=1e-12))

    def last(b2):
        return float(ide.run_discrete(ide.Adam(0.01, b2=b2), *given[1:3], 40, ts=[40]).loss[-1])

    h = np.log1p(1e-4)
    secant = (last(0.999 * np.exp(h)) - last(0.999 * np.exp(-h))) / (2 * h)
    np.testing.assert_allclose(discrete.secant[-1], secant, rtol=1e-6)
    for side in (equation, discrete):
        assert side.okay
        assert side.useful_until == 40
        assert np.all(side.missed < 0.05)


def command(*arguments, cwd):
    line = [sys.executable, "-m", "idemodels", "study", *arguments]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "COLUMNS": "200"}
    options = {"cwd": cwd, "env": environment, "capture_output": True, "text": True}
    return subprocess.run(line, **options, check=False, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "text"), [("hyper", HYPER), ("horizon", HORIZON)])
def test_a_study_writes_a_table_and_a_figure(kind, text, tmp_path):
    (tmp_path / "mine.toml").write_text(text)
    answer = command(kind, "mine.toml", "--json", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    told = json.loads(answer.stdout)
    assert len(told["rows"]) == {"hyper": 3, "horizon": 16}[kind]
    assert told["failures"] == []
    here = tmp_path / "results" / "mine"
    assert (here / f"{kind}.png").stat().st_size > 10_000
    assert (here / f"{kind}.csv").read_text().count("\n") == len(told["rows"]) + 1
    assert json.loads((here / "provenance.json").read_text())["notes"] == told["notes"]


@pytest.mark.slow
def test_a_study_tells_its_progress_and_its_table(tmp_path):
    (tmp_path / "mine.toml").write_text(HORIZON)
    answer = command("horizon", "mine.toml", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "missed" in answer.stdout
    assert "up to step 60 of the equation" in answer.stdout
    assert answer.stderr.count("\n") == 2
    quiet = command("horizon", "mine.toml", "--quiet", cwd=tmp_path)
    assert (quiet.stdout, quiet.stderr) == ("", "")


WRONG = [
    ("hyper", HYPER.replace("[hyper]", "[other]"), "`hyper` is missing"),
    ("hyper", HYPER + "rates = 2", "`hyper.rates` is unknown here. Did you mean 'rate'"),
    ("hyper", HYPER + "rate = -1.0", "`hyper.rate` must be a positive number, but is -1.0"),
    ("hyper", HYPER + "held_out = 0.5", r"`hyper.held_out` must lie in \(0, 0.5\), but is 0.5"),
    ("hyper", HYPER.replace("updates = 2", "updates = 0"), "`hyper.updates` must be 1 or more"),
    ("hyper", HYPER.replace('"b2"', '"b3"'), "`hyper.names` must have names of what there is"),
    ("hyper", HYPER.replace('"b2"', '"l2"'), "`hyper.names` must have positive .* 'l2' is 0.0"),
    ("hyper", HYPER.replace('"b2"', '"theta0"'), "positive hyperparameters .* 'theta0' is none"),
    ("hyper", HYPER.replace("0.003", "[0.1, 0.2]"), "`model` must have one value each"),
    (
        "hyper",
        HYPER.replace('{ kind = "digits_mlp", hidden = [4] }', '{ kind = "quadratic" }'),
        "`objective.kind` must be 'digits_mlp'",
    ),
    ("horizon", HORIZON + "change2 = 1.0", "`horizon.change2` is unknown here"),
    ("horizon", HORIZON.replace("0.02", "1.5"), r"`horizon.change` must lie in \(0, 1\)"),
    ("horizon", HORIZON.replace("steps", "stepz"), "`stepz` is unknown here. Did you mean 'steps'"),
]


@pytest.mark.parametrize(("kind", "text", "message"), WRONG)
def test_a_wrong_config_is_told_by_its_key(kind, text, message, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_derivative(path, kind)


def test_the_config_of_a_study_is_not_run_otherwise(tmp_path):
    (tmp_path / "mine.toml").write_text(HORIZON)
    with pytest.raises(ConfigError, match="idemodels study horizon"):
        read_config(tmp_path / "mine.toml")


def test_the_studies_that_come_with_the_package_can_be_read():
    names = [name for name, path in shipped().items() if is_derivative(path)]
    assert names == ["horizon_digits", "hyper_digits"]
    for name in names:
        read_derivative(shipped()[name], name.split("_")[0])
