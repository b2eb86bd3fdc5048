"""Flows from configs, and the study of strides."""

import json

import numpy as np
import pytest

from idemodels import InterpolatingFlow, run_discrete
from idemodels._cli import main
from idemodels._config import ConfigError, read_config

HEAD = """
title = "test"
steps = 40
theta0 = 1.0
objective = { kind = "quadratic" }
"""


def read(tmp_path, model):
    path = tmp_path / "mine.toml"
    path.write_text(f'{HEAD}model = {{ kind = "interpolating_flow", {model} }}\n')
    return read_config(path)


def test_a_list_makes_a_case_of_each_and_all_share_one_optimizer(tmp_path):
    config = read(tmp_path, 'optimizer = "adam", learning_rate = [0.1, 0.2], b2 = 0.99, kink = 30')
    first, second = (case.model for case in config.cases)
    assert isinstance(first, InterpolatingFlow)
    assert first.tx is second.tx
    assert first.kinks == (30,)
    assert {name: float(x) for name, x in second.hyperparams.items()} == {
        "learning_rate": 0.2,
        "b2": 0.99,
    }
    assert "eps" not in config.cases[0].values  # optax's own
    ours, optax = (run_discrete(m, config.cases[0].objective, 1.0, 1) for m in (first, second))
    np.testing.assert_allclose(optax.theta - 1.0, 2 * (ours.theta - 1.0), rtol=1e-6)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ('optimizer = "adamm", learning_rate = 0.1', "`model.optimizer` must be .* Did you mean"),
        ('optimizer = "sgd", learning_rate = 0.1, b1 = 0.9', "`model.b1` must be left out"),
        ('optimizer = "adam", learning_rate = 0.1, order = 0', "`model.order` must be a positive"),
        ('optimizer = "adam"', "`model.learning_rate` is missing"),
    ],
)
def test_mistakes_are_told_by_their_key(tmp_path, model, words):
    with pytest.raises(ConfigError, match=words):
        read(tmp_path, model)


@pytest.mark.slow
def test_the_edge_of_descent_is_followed_by_stride_2(tmp_path, capsys):
    assert main(["run", "edge_descent", "--out", str(tmp_path), "--json", "--quiet"]) == 0
    assert (tmp_path / "edge_descent" / "study.svg").exists()
    told = json.loads(capsys.readouterr().out)
    errors = [case["max_error"] for case in told["configs"][0]["records"]]
    assert min(errors[:2]) > 0.1
    np.testing.assert_allclose(errors[2:], [8.4e-3, 1.0e-3, 1.8e-4, 3.6e-5], rtol=0.5)
