"""Configs: what they make, and what they say when something is wrong."""

import diffrax as dfx
import jax
import numpy as np
import pytest

from idemodels import (
    AdaGrad,
    Adam,
    DoubleWell,
    FixedPoint,
    History,
    Markov,
    Quadratic,
    RMSProp,
    SecondOrderAdam,
)
from idemodels._config import (
    ConfigError,
    find_config,
    is_derivative,
    is_sweep,
    read_config,
    shipped,
)
from idemodels._config.cases import shown
from idemodels._plot import FIGURES

SHARED = """
title = "test"
steps = 10
"""
OBJECTIVE = 'objective = { kind = "quadratic" }\n'
ADAM = 'model = { kind = "adam", learning_rate = 0.1 }\n'
SECOND = 'model = { kind = "second_order_adam", learning_rate = 0.1 }\n'
ADVANCED = 'model = { kind = "rmsprop", learning_rate = 0.1, reading = "advanced" }\n'


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return read_config(path)

    return read


@pytest.fixture
def wrong(read):
    """What a config is refused with, without the file's name, which must stand in each line."""

    def wrong(text):
        with pytest.raises(ConfigError) as e:
            read(text)
        name, *_ = str(e.value).split("mine.toml: ")
        lines = str(e.value).splitlines()
        prefix = f"{name}mine.toml: "
        assert all(line.startswith(prefix) for line in lines)
        return [line.removeprefix(prefix) for line in lines]

    return wrong


def test_a_config_makes_what_it_says(read):
    text = SHARED + OBJECTIVE.replace("}", ", minimum = [3.0, 5] }") + "theta0 = [[1, 2.5]]\n"
    text += 'model = { kind = "rmsprop", learning_rate = 0.1, decay = 0.8, rate = "matched" }\n'
    text += 'method = { kind = "markov", rtol = 1e-4, max_steps = 7, solver = "Kvaerno3" }\n'
    config = read(text)
    (case,) = config.cases
    assert (config.name, config.title, config.precision) == ("mine", "test", "float64")
    assert isinstance(case.model, RMSProp)
    assert (float(case.model.decay), case.model.rate) == (pytest.approx(0.8, abs=1e-15), "matched")
    assert isinstance(case.objective, Quadratic)
    np.testing.assert_array_equal(case.objective.minimum, [3.0, 5.0])
    np.testing.assert_array_equal(case.start("float64"), [1.0, 2.5])
    method = case.method
    assert isinstance(method.solver, dfx.Kvaerno3)
    assert (method.rtol, method.atol, method.max_steps) == (1e-4, 1e-9, 7)
    assert case.values["eps"] == 1e-8


def test_none_is_a_word_of_a_method(read):
    table = 'method = { kind = "markov", steady_tol = "none", max_gradients = "none" }\n'
    (case,) = read(SHARED + OBJECTIVE + ADAM + table).cases
    assert case.method == Markov(steady_tol=None, max_gradients=None)


def test_a_list_makes_a_case_of_each_value_and_its_key_is_the_label(read):
    text = SHARED + 'objective = { kind = "double_well" }\ntheta0 = [0.1, 0, -0.1]\n'
    text += 'model = { kind = "adam", learning_rate = 0.1, b1 = [0, 0.9], b2 = [0.9, 0.99] }\n'
    cases = read(text).cases
    chosen = [(case.values["b1"], case.values["b2"], case.values["theta0"]) for case in cases]
    assert chosen == [(b1, b2, s) for b1 in (0, 0.9) for b2 in (0.9, 0.99) for s in (0.1, 0, -0.1)]
    assert [float(case.start("float64")) for case in cases[:3]] == [0.1, 0.0, -0.1]
    assert shown(case.values for case in cases) == ["learning_rate", "b1", "b2", "theta0"]


def test_each_model_gets_the_method_that_it_needs(read):
    text = SHARED + OBJECTIVE
    text += 'model = { kind = "rmsprop", learning_rate = 0.1, reading = ["closure", "advanced"] }\n'
    assert [type(case.method) for case in read(text).cases] == [Markov, FixedPoint]


def test_methods_are_made_from_their_keys(read):
    text = 'method = { kind = "fixed_point", tol = 1e-6, elements = 32, extension = 4 }\n'
    (case,) = read(SHARED + OBJECTIVE + ADVANCED + text).cases
    assert case.method == FixedPoint(tol=1e-6, elements=32, extension=4.0)
    (case,) = read(SHARED + OBJECTIVE + ADAM + 'method = { kind = "history", substeps = 3 }').cases
    assert case.method == History(3)


def test_a_model_of_second_order_with_a_shifted_start(read):
    text = SHARED + "shift = [0, 1.0]\npublished = [nan, 0.5]\n" + OBJECTIVE
    text += "also_published = { loss = [1.0, nan] }\nends = 2\nunscaled_decay = true\n"
    text += SECOND.replace("}", ", velocity0 = 2.0 }")
    usual, shifted = read(text).cases
    assert isinstance(usual.model, SecondOrderAdam)
    start = usual.start("float64")
    assert usual.state0(start) is None
    state = shifted.state0(start)
    assert (state.s, float(state.velocity)) == (1.0, pytest.approx(0.2))
    assert {name: m.shape for name, m in state.memory.items()} == {"m": (2,), "v": (2,)}
    assert not np.any(jax.tree.leaves(state.memory))
    np.testing.assert_array_equal([usual.published, shifted.published], [np.nan, 0.5])
    assert (usual.also_published, usual.ends, usual.curve) == ({"loss": 1.0}, (2,), ())
    assert usual.unscaled_decay


def test_a_study_has_its_own_figure_unless_more_are_asked_for(read):
    text = SHARED + OBJECTIVE + ADAM
    assert read(text).figures == FIGURES
    assert read('study = "error_table"\n' + text).figures == ()
    assert read('study = "error_table"\nfigures = ["loss"]\n' + text).figures == ("loss",)


def test_a_run_is_laid_over_the_top_of_the_file(read):
    text = SHARED + OBJECTIVE + 'model = { kind = "adam", b1 = 0.5 }\n'
    text += "[[runs]]\nmodel = { learning_rate = 0.1 }\n"
    text += '[[runs]]\nsteps = 7\nevery = 3\nmodel = { kind = "adagrad", learning_rate = 0.2 }\n'
    text += 'objective = { kind = "double_well" }\n'
    first, second = read(text).cases
    assert isinstance(first.model, Adam)
    assert float(first.model.b1) == 0.5
    assert isinstance(second.model, AdaGrad)  # of another kind: b1 is not carried over
    assert isinstance(second.objective, DoubleWell)
    np.testing.assert_array_equal(first.marks, np.arange(11))
    np.testing.assert_array_equal(second.marks, [0, 3, 6, 7])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a =\n", "is not TOML: Invalid value (at line 1, column 4)."),
        ("stesp = 3\n", "`stesp` is unknown here. Did you mean 'steps'? Known: `title`, "),
        ("steps = 3\n", "`title` is missing."),
        ('title = "x"\nprecision = "float16"', "`precision` must be one of 'float64', 'float32', "),
        (SHARED + ADAM, "`objective` is missing."),
        (SHARED + OBJECTIVE + "model = 3\n", "`model` must be a table, but is 3."),
        (SHARED + OBJECTIVE + "model = {}\n", "`model.kind` is missing: one of 'adam', 'rmsprop'"),
        (
            SHARED + OBJECTIVE + 'model = { kind = "adm" }\n',
            "`model.kind` must be one of 'adam', 'rmsprop', 'adagrad', 'second_order_adam', "
            "'interpolating_flow', 'nesterov', but is 'adm'. Did you mean 'adam'?",
        ),
        (
            SHARED + 'objective = { kind = "rosenbrok" }\n' + ADAM,
            "Did you mean 'rosenbrock'?",
        ),
        (
            SHARED + OBJECTIVE + ADAM.replace("}", ", lerning_rate = 0.9 }"),
            "`model.lerning_rate` is unknown here. Did you mean 'learning_rate'? Known: `kind`, ",
        ),
        (
            SHARED + OBJECTIVE + ADAM.replace("0.1", "[]"),
            "`model.learning_rate` must be a number, or a list of at least one, but is empty: [].",
        ),
        (
            SHARED + OBJECTIVE + ADAM.replace("0.1", '"fast"'),
            "`model.learning_rate` must be a number, or a list of such, but is 'fast'.",
        ),
        (
            SHARED + OBJECTIVE + ADAM.replace("0.1", "[0.1, true]"),
            "`model.learning_rate` must be a number, or a list of such, but is [0.1, True].",
        ),
        (
            SHARED + OBJECTIVE + ADAM.replace("0.1", "-1"),
            "`model.learning_rate` must be positive and finite, but is -1.0.",
        ),
        (
            SHARED + OBJECTIVE + ADAM.replace("}", ", b2 = [0.9, 1.0] }"),
            "`model.b2` must lie in [0, 1), but is 1.0.",
        ),
        (
            SHARED + OBJECTIVE + ADAM.replace("}", ', rate = "mached" }'),
            "`model.rate` must be one of 'paper', 'matched', but is 'mached'. "
            "Did you mean 'matched'?",
        ),
        (
            SHARED + OBJECTIVE + ADAM.replace("adam", "rmsprop").replace("}", ', reading = "cl" }'),
            "`model.reading` must be one of 'causal', 'closure'",
        ),
        (
            SHARED + OBJECTIVE + ADAM + 'method = { kind = "marcov" }\n',
            "`method.kind` must be one of 'markov', 'fixed_point', 'history', but is 'marcov'. Did "
            "you mean 'markov'?",
        ),
        (
            SHARED + OBJECTIVE + ADAM + 'method = { kind = "markov", solver = "Tsit6" }\n',
            "but is 'Tsit6'. Did you mean 'Tsit5'?",
        ),
        (
            SHARED + OBJECTIVE + ADAM + 'method = { kind = "markov", rtol = "low" }\n',
            "`method.rtol` must be a number, but is 'low'.",
        ),
        (
            SHARED + OBJECTIVE + ADAM + 'method = { kind = "markov", rtol = 0 }\n',
            "`method.rtol` must be a positive number, but is 0",
        ),
        (
            SHARED + OBJECTIVE + ADAM + 'method = { kind = "fixed_point" }\n',
            "`method.kind` must be one that solves the equation of this model, Adam: 'markov' or "
            "'history'; but is 'fixed_point'. Without `method` each model gets what it needs.",
        ),
        (
            SHARED + OBJECTIVE + ADVANCED + 'method = { kind = "markov" }\n',
            "this model, RMSProp, which reads 'v' at s + 1: 'fixed_point'; but is 'markov'.",
        ),
        (
            SHARED + OBJECTIVE + ADVANCED + 'method = { kind = "fixed_point", tol = 0 }\n',
            "`method.tol` must be a positive number, but is 0",
        ),
        (
            SHARED + OBJECTIVE + ADVANCED + 'method = { kind = "fixed_point", sweeps = 3 }\n',
            "`method.sweeps` is unknown here. Did you mean 'max_sweeps'? Known: `kind`, `tol`, ",
        ),
        (
            SHARED + OBJECTIVE + ADAM + 'method = { kind = "history", substeps = 0.5 }\n',
            "`method.substeps` must be an integer, but is 0.5.",
        ),
        (
            SHARED + OBJECTIVE + SECOND.replace("}", ", b1 = 0.0 }"),
            "`model.b1` must lie in (0, 1), but is 0.0.",
        ),
        (
            SHARED + OBJECTIVE + SECOND.replace("}", ', velocity0 = "fast" }'),
            "`model.velocity0` must be a number, or a list of such, but is 'fast'.",
        ),
        (
            SHARED + "shift = -1\n" + OBJECTIVE + ADAM,
            "`shift` must be 0 or more, and finite, but is",
        ),
        (
            SHARED + "shift = 1\n" + OBJECTIVE + ADVANCED,
            "`shift` must be 0 for this method, which starts at s = 0, but is 1.",
        ),
        (
            SHARED + "published = [1.0, 2.0]\n" + OBJECTIVE + ADAM,
            "`published` must have a number for each of the 1 cases, but has 2.",
        ),
        (
            SHARED + "also_published = { loss = [1.0, 2.0] }\n" + OBJECTIVE + ADAM,
            "`also_published.loss` must have a number for each of the 1 cases, but has 2.",
        ),
        (
            SHARED + "curve = [1.0]\n" + OBJECTIVE + ADAM,
            "`curve` must have a number for each of evenly spaced steps from 0 to `steps`",
        ),
        (
            'study = "basin"\n' + SHARED + OBJECTIVE + ADAM,
            "`study` must be one of 'error_table', 'velocity', 'basins', ",
        ),
        (
            'study = "basins"\n' + SHARED + OBJECTIVE.replace("quadratic", "rosenbrock") + ADAM,
            "`study` must be left out, or another: this one needs a single parameter.",
        ),
        (
            'figures = ["path"]\n' + SHARED + OBJECTIVE + ADAM,
            "`figures.0` must be one of 'paths', 'moments', 'gradient', 'error', 'loss', but is",
        ),
        (
            SHARED.replace("10", "10.5") + OBJECTIVE + ADAM,
            "`steps` must be an integer, but is 10.5.",
        ),
        (
            SHARED + "every = 0\n" + OBJECTIVE + ADAM,
            "`every` must be an integer, 1 or more, but is 0.",
        ),
        (SHARED + "every = 11\n" + OBJECTIVE + ADAM, "`every` must be at most `steps`, 10, but"),
        (
            SHARED + "theta0 = []\n" + OBJECTIVE + ADAM,
            "`theta0` must be a number or an array of numbers, or a list of at least one, but is",
        ),
        (
            SHARED + "theta0 = [1, 2]\n" + OBJECTIVE.replace("quadratic", "rosenbrock") + ADAM,
            "`theta0` must have shape (2,) for this objective, but 1 has shape (). A list makes a "
            "case of each item: for one vector write [[...]].",
        ),
        (
            SHARED + "theta0 = 1\n" + OBJECTIVE.replace("quadratic", "digits_mlp") + ADAM,
            "`theta0` must be left out: the objective has its own start, but is 1.",
        ),
    ],
)
def test_a_mistake_is_told_by_its_key(wrong, text, said):
    (line,) = wrong(text)
    assert said in line


def test_all_mistakes_are_told_at_once_and_shared_ones_once(wrong):
    lines = wrong(
        SHARED
        + 'objective = { kind = "quadratic", minimum = "low" }\n'
        + "[[runs]]\n"
        + ADAM.replace("}", ", b3 = 1 }")
        + "[[runs]]\n"
        + ADAM
    )
    assert lines[0] == (
        "`objective.minimum` must be a number or an array of numbers, but is 'low'."
    )
    assert lines[1].startswith("`runs[0].model.b3` is unknown here.")
    assert len(lines) == 2


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match="is not TOML: 'utf-8' codec can't decode"):
        read_config(path)


def test_configs_are_found_by_path_and_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = shipped()
    assert {"adam_quadratic", "digits", "paper/rmsprop_double_well"} <= set(known)
    for text in ("adam_quadratic", "adam_quadratic.toml", "configs/adam_quadratic.toml"):
        assert find_config(text) == known["adam_quadratic"]
    assert find_config("paper/adam_quadratic") == known["paper/adam_quadratic"]
    mine = tmp_path / "adam_quadratic.toml"
    mine.write_text("")
    assert find_config("adam_quadratic.toml").resolve() == mine  # what exists comes first


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("adam_quadratc", "adam_quadratc: there is no such file, nor a config of this name. Did "),
        (".", ".: is a folder; a config is a TOML file."),
    ],
)
def test_a_config_that_is_not_there(text, said):
    with pytest.raises(ConfigError) as e:
        find_config(text)
    assert str(e.value).startswith(said)


RUNS = [name for name, path in shipped().items() if not is_sweep(path) and not is_derivative(path)]


@pytest.mark.parametrize("name", RUNS)
def test_every_shipped_config_is_valid(name):
    config = read_config(shipped()[name])
    assert config.name == name
    assert config.cases
    for case in config.cases:
        assert jax.tree.leaves(case.start("float64"))
