"""The command line, as a program of its own."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from idemodels._cli import main
from idemodels._config import shipped

# The first is soon compiled, and done while the second is not.
TWO_RUNS = """
title = "two runs"
objective = { kind = "quadratic" }
model = { kind = "adam", learning_rate = 0.1 }

[[runs]]
steps = 20
method = { kind = "markov", solver = "Euler" }

[[runs]]
steps = 30
method = { kind = "markov", solver = "Dopri5"%s }
"""


def command(*arguments, cwd, **options):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    line = [sys.executable, "-m", "idemodels", *arguments]
    return subprocess.Popen(
        line,
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def without_cache():
    """An environment in which JAX keeps no programs by itself."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION_CACHE")}
    return kept | {"JAX_PLATFORMS": "cpu"}


def finished(process):
    """Standard output and error, and the exit status."""
    out, err = process.communicate(timeout=300)
    return out, err, process.returncode


@pytest.fixture(scope="module")
def first_command(tmp_path_factory):
    """The README's first command, in an empty folder."""
    folder = tmp_path_factory.mktemp("empty")
    answer = finished(command("run", "configs/adam_quadratic.toml", "--json", cwd=folder))
    return folder, *answer


def test_run_reports_the_errors_of_the_paper(first_command):
    _, out, err, status = first_command
    assert status == 0, err
    (config,) = json.loads(out)["configs"]
    assert (config["name"], config["cases"], config["solved"]) == ("adam_quadratic", 4, 4)
    errors = [f"{record['max_error']:.4f}" for record in config["records"]]
    assert errors == ["0.0415", "0.0442", "0.0064", "0.0072"]
    assert [record["at"] for record in config["records"]] == [17, 18, 37, 42]
    assert "adam_quadratic 4/4 learning_rate=0.01 b1=0.9 b2=0.999: successful" in err


def test_the_errors_of_model_and_solver_are_apart(first_command):
    (config,) = json.loads(first_command[1])["configs"]
    for record in config["records"]:
        assert record["method"] == "Markov"
        assert 0 < record["solver_error"] < 1e-4 * record["max_error"]
        assert record["final_error"] < record["max_error"]
        assert record["residual"] is record["num_clamped"] is None
    assert "solver's error" not in first_command[2]


def test_run_writes_everything(first_command):
    folder = first_command[0] / "results" / "adam_quadratic"
    (config,) = json.loads(first_command[1])["configs"]
    assert config["figures"] == ["paths", "moments", "gradient", "error", "loss"]
    for name in config["figures"]:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (folder / f"{name}.svg").read_text()
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["b2"] for row in rows] == ["0.99", "0.999"] * 2
    with np.load(folder / rows[2]["file"]) as arrays:
        for side, size in (("equation", 1501), ("discrete", 1001)):
            for name in ("ts", "times", "theta", "loss", "moments.m", "moments.v", "gradient"):
                assert arrays[f"{side}.{name}"].shape == (size,), (side, name)
        assert arrays["discrete.error"].max() == float(rows[2]["max_error"])
    assert not list(folder.rglob(".*")), "temporary files are left"


def test_provenance_says_where_results_come_from(first_command):
    text = (first_command[0] / "results" / "adam_quadratic" / "provenance.json").read_text()
    found = json.loads(text)
    assert found["config"]["text"] == shipped()["adam_quadratic"].read_text()
    assert {"idemodels", "python", "jax", "diffrax", "optax"} <= set(found["versions"])
    assert (found["precision"], found["device"]["platform"]) == ("float64", "cpu")
    assert (found["cases"], found["finished"], found["solved"]) == (4, 4, 4)


def test_a_failed_case_is_a_row_and_exit_status_1(tmp_path):
    (tmp_path / "mine.toml").write_text(TWO_RUNS % ", max_steps = 5")
    out, err, status = finished(command("run", "mine.toml", "--out", "here", cwd=tmp_path))
    assert status == 1
    assert "two runs" in out
    assert "1 of 2 cases solved" in out
    # the table breaks its lines at the width of the terminal
    assert "maximum number of solver steps was reached" in " ".join((out + err).split())
    assert "Try increasing `max_steps`" in err
    assert "Traceback" not in err
    with (tmp_path / "here" / "mine" / "table.csv").open() as file:
        solved, failed = csv.DictReader(file)
    assert (solved["okay"], failed["okay"], failed["max_error"]) == ("True", "False", "")
    with np.load(tmp_path / "here" / "mine" / failed["file"]) as arrays:
        path = arrays["equation.theta"]
    assert np.isfinite(path[0])
    assert np.isnan(path[-1])


def test_ctrl_c_keeps_what_is_finished(tmp_path):
    head, _, tail = (TWO_RUNS % "").partition("[[runs]]")
    many = "".join(f"[[runs]]\nsteps = {30 + i}\n" for i in range(60))  # each takes a moment
    (tmp_path / "mine.toml").write_text(f"{head}[[runs]]{tail}\n{many}")
    process = command("run", "mine.toml", cwd=tmp_path)
    folder = tmp_path / "results" / "mine"
    deadline = time.monotonic() + 120
    while not list(folder.glob("trajectories/*.npz")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)  # the file is there a moment before its case counts as finished
    process.send_signal(signal.SIGINT)
    _, err, status = finished(process)
    assert status == 130, err
    made = json.loads((folder / "provenance.json").read_text())["finished"]
    assert 1 <= made < 62
    told = "cases are finished, and written to results/mine."
    assert f"interrupted: {made} of 62 {told}" in " ".join(err.split())
    assert "Traceback" not in err
    with (folder / "table.csv").open() as file:
        row, *others = csv.DictReader(file)
    assert len(others) == made - 1
    with np.load(folder / row["file"]) as arrays:
        assert np.all(np.isfinite(arrays["equation.theta"]))
    assert (folder / "paths.png").exists()


def test_an_output_folder_that_cannot_be_written_is_told_before_computing(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "file" / "below")
    assert main(["run", "adam_quadratic", "--out", out]) == 2
    answer = capsys.readouterr()
    assert answer.out == ""
    assert answer.err == f"idemodels: error: --out {out}: cannot be written to: Not a directory.\n"


def test_a_wrong_config_is_exit_status_2_with_a_line_for_each_mistake(tmp_path, capsys):
    path = tmp_path / "mine.toml"
    path.write_text('title = "x"\nstep = 3\nobjectiv = 1\n')
    assert main(["run", str(path)]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(
        f"idemodels: error: {path}: `step` is unknown here. Did you mean 'steps"
    )
    assert "Did you mean 'objective'?" in second
    assert main(["run", "adam_quadratik"]) == 2
    assert "Did you mean 'adam_quadratic'?" in capsys.readouterr().err


def test_two_configs_for_one_folder_are_refused(tmp_path, capsys):
    text = shipped()["adam_quadratic"].read_text()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same.toml").write_text(text)
    paths = [str(tmp_path / name / "same.toml") for name in ("a", "b")]
    assert main(["run", *paths]) == 2
    assert "would write to the same folder, same, as" in capsys.readouterr().err


def test_list_shows_what_is_shipped(capsys):
    assert main(["list"]) == 0
    table = capsys.readouterr().out
    assert "paper/adagrad_double_well" in table
    assert "AdaGrad on a double well" in table
    assert main(["list", "--json"]) == 0
    assert [item["name"] for item in json.loads(capsys.readouterr().out)] == list(shipped())
    assert main(["list", "--quiet"]) == 0
    assert capsys.readouterr().out.split() == list(shipped())


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["paper", "-h"]])
def test_help(arguments, capsys):
    with pytest.raises(SystemExit) as e:
        main(arguments)
    assert e.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: idemodels")
    assert max(map(len, shown.splitlines())) <= 100


@pytest.mark.parametrize("arguments", [[], ["rn"], ["run"], ["run", "x", "--ot", "y"]])
def test_wrong_usage_is_exit_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as e:
        main(arguments)
    assert e.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_version_as_a_module(tmp_path):
    from idemodels import __version__

    out, _, status = finished(command("--version", cwd=tmp_path))
    assert (out, status) == (f"idemodels {__version__}\n", 0)


def test_without_the_extra_it_says_what_to_install(tmp_path):
    lines = "import sys; sys.modules['pydantic'] = None; import idemodels._cli as cli; "
    code = lines + "sys.exit(cli.main(['list']))"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 2
    assert answer.stderr == "idemodels: error: this needs pydantic: pip install 'idemodels[run]'\n"


def test_a_second_command_compiles_nothing_anew(tmp_path):
    """What the first one kept, in a folder that is made."""
    config = tmp_path / "one.toml"
    config.write_text(
        TWO_RUNS.partition("[[runs]]")[0] + "steps = 20\nmethod = { kind = 'markov' }\n"
    )
    kept = tmp_path / "kept" / "here"
    environment = without_cache() | {"IDEMODELS_CACHE": str(kept)}
    line = [sys.executable, "-m", "idemodels", "run", str(config), "--json"]
    run = lambda *more: subprocess.run(
        [*line, *more], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run("--no-cache").returncode == 0
    assert not kept.exists()
    assert run().returncode == 0
    first = sorted(path.name for path in kept.glob("*-cache"))
    assert len(first) > 10
    assert run().returncode == 0
    assert sorted(path.name for path in kept.glob("*-cache")) == first


def test_a_cache_that_cannot_be_written_is_told_once(tmp_path):
    config, file = tmp_path / "two.toml", tmp_path / "file"
    config.write_text(TWO_RUNS % "")
    file.write_text("in the way")
    environment = without_cache() | {"IDEMODELS_CACHE": str(file / "inside")}
    line = [sys.executable, "-m", "idemodels", "run", str(config), "--quiet"]
    found = subprocess.run(
        line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0
    assert found.stderr.count("compiled programs cannot be kept") == 1
    assert "IDEMODELS_CACHE" in found.stderr
    assert "--no-cache" in found.stderr
