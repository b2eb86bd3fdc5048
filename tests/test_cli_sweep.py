"""`idemodels sweep` as a user calls it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from idemodels._cli.main import main
from idemodels._config import ConfigError, is_sweep, read_sweep, shipped

SMALL = """
title = "a small sweep"
steps = 50
objective = { kind = "quadratic" }
theta0 = 1.0
model = { kind = "adam", learning_rate = 0.01 }
batch = 8

[over.learning_rate]
from = 1e-3
to = 1e-1
num = 4
scale = "log"

[over.b2]
from = 0.9
to = 0.999
num = 3
scale = "log"
label = "1-b2"

[over.b1]
values = [0.0, 0.9]
"""


def command(*arguments, cwd):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    line = [sys.executable, "-m", "idemodels", *arguments]
    return subprocess.run(
        line, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "mine.toml").write_text(SMALL)
    return folder, command("sweep", "mine.toml", cwd=folder)


def test_a_sweep_writes_store_figures_and_tables(swept):
    folder, answer = swept
    assert answer.returncode == 0, answer.stderr
    assert "24 of 24 lanes solved" in answer.stdout
    assert "least loss of the equation" in answer.stdout
    here = folder / "results" / "mine"
    found = xr.open_zarr(here / "sweep.zarr", chunks=None, consolidated=False)
    assert found.sizes["learning_rate"] == 4
    np.testing.assert_allclose(found["1-b2"], [0.1, 0.01, 0.001], rtol=1e-9)
    assert np.all(found.status <= 1)
    for name in ("final_loss", "max_error"):
        assert (here / f"{name}.png").stat().st_size > 10_000
        assert (here / f"{name}.svg").exists()
    told = json.loads((here / "provenance.json").read_text())
    assert (told["lanes"], told["failed"]) == (24, 0)


def test_a_second_time_it_goes_on_only_if_asked(swept):
    folder, _ = swept
    again = command("sweep", "mine.toml", cwd=folder)
    assert again.returncode == 2
    assert "is there already. Pass --resume" in again.stderr
    resumed = command("sweep", "mine.toml", "--resume", "--json", cwd=folder)
    assert resumed.returncode == 0, resumed.stderr
    told = json.loads(resumed.stdout)
    assert told["failures"] == []
    assert len(told["best"]) == 5


def test_the_shipped_sweeps_are_valid():
    names = [name for name, path in shipped().items() if is_sweep(path)]
    assert names == ["sweep_adam", "sweep_digits"]
    adam, digits = (read_sweep(shipped()[name]) for name in names)
    lanes = lambda config: int(np.prod([len(axis.values) for axis in config.over.values()]))
    assert (lanes(adam), lanes(digits)) == (4096, 64)
    assert (adam.map, adam.panels) == (("learning_rate", "b2"), "b1")


WRONG = [
    ("num = 4", "", "`over.learning_rate` must have `values`, or `from`, `to` and `num`."),
    ("num = 4", 'num = "4"', "`over.learning_rate.num` must be an integer, but is '4'."),
    ('label = "1-b2"', 'lable = "1-b2"', "`over.b2.lable` is unknown here. Did you mean 'label'?"),
    ("batch = 8", 'map = ["eps"]', "`map` must be one of 'learning_rate', 'b2', 'b1', but is"),
    ("batch = 8", "batc = 8", "`batc` is unknown here. Did you mean"),
    ("values = [0.0, 0.9]", "values = []", "`over.b1` cannot be made: Axis 'values' must have a"),
    ("learning_rate = 0.01", "learning_rate = [0.1, 0.2]", "must have one value each"),
]


@pytest.mark.parametrize(("old", "new", "said"), WRONG)
def test_what_is_wrong_in_a_config_is_named(tmp_path, old, new, said):
    path = tmp_path / "mine.toml"
    path.write_text(SMALL.replace(old, new))
    with pytest.raises(ConfigError) as e:
        read_sweep(path)
    assert said in str(e.value)


def test_an_unknown_axis_and_too_many_devices_are_exit_status_2(tmp_path, capsys):
    path = tmp_path / "mine.toml"
    path.write_text(SMALL.replace("[over.b1]", "[over.b3]"))
    assert main(["sweep", str(path), "--out", str(tmp_path), "--quiet"]) == 2
    assert "must have names of what there is" in capsys.readouterr().err
    path.write_text(SMALL)
    assert main(["sweep", str(path), "--out", str(tmp_path), "--devices", "99"]) == 2
    assert "`devices` must be 1 to" in capsys.readouterr().err


def test_run_and_sweep_know_each_others_configs(tmp_path, capsys):
    assert main(["run", "sweep_adam", "--out", str(tmp_path)]) == 2
    assert "is the config of a sweep: `idemodels sweep" in capsys.readouterr().err
    assert main(["sweep", "adam_quadratic", "--out", str(tmp_path)]) == 2
    assert "`over` is missing: a table `[over.NAME]`" in capsys.readouterr().err
