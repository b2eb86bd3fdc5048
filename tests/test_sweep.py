"""Every lane of a sweep is its single run, whatever its neighbours do; a store outlives a crash."""

import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from helpers import Bowls

import idemodels as ide
from idemodels._sweep.journal import Journal
from idemodels._sweep.slots import Mapped
from idemodels._sweep.store import Store

QUADRATIC = ide.Quadratic()
STATUS = "done steady diverged out_of_steps non-finite invalid step_too_small other_failure not_run"
RATES = ide.axis(np.geomspace(1e-3, 1e-1, 5), scale="log")
B2 = ide.axis(1 - np.geomspace(1e-1, 1e-3, 3), label="1-b2", scale="log")


def sweep(over, steps=200, *, model=None, objective=QUADRATIC, theta0=1.0, **options):
    options = {"progress": False, "batch": 8} | options
    return ide.sweep(model or ide.Adam(0.01), objective, theta0, steps, over, **options)


def single(model, steps=200, objective=QUADRATIC, theta0=1.0, method=None):
    method = method or ide.Markov(rtol=1e-5, atol=1e-8)
    ts = np.linspace(0.0, steps, 3)
    return ide.solve(model, objective, theta0, ts, method=method, throw=False)


def test_a_grid_has_labelled_dimensions_and_equals_single_runs():
    method = ide.Markov(rtol=1e-5, atol=1e-8)
    found = sweep({"learning_rate": RATES, "b2": B2}, method=method)
    assert found.sizes == {"learning_rate": 5, "b2": 3}
    np.testing.assert_array_equal(found["b2"], B2.values)
    np.testing.assert_allclose(found["1-b2"], [0.1, 0.01, 0.001], rtol=1e-12)
    assert found.status.attrs["flag_meanings"] == STATUS
    assert np.all(found.status == 0)
    for i in (0, 4):
        for k in (0, 2):
            model = ide.Adam(RATES.values[i], b2=B2.values[k])
            alone = single(model)
            lane = found.isel(learning_rate=i, b2=k)
            np.testing.assert_allclose(lane.final_theta, alone.theta[-1], rtol=1e-10)
            assert lane.num_steps == alone.stats["num_steps"]
            discrete = ide.run_discrete(model, QUADRATIC, 1.0, 200)
            np.testing.assert_allclose(lane.discrete_loss, discrete.loss[-1], rtol=1e-10)
            gap = abs(alone.theta[-1] - discrete.theta[-1])
            np.testing.assert_allclose(lane.final_error, gap, rtol=1e-8)


def test_paths_and_metrics_are_those_at_save_ts():
    metrics = {"way": lambda path, run: jnp.sum(jnp.abs(jnp.diff(path.theta))) - run.theta[-1]}
    marks = [0, 50, 150]
    found = sweep({"learning_rate": RATES}, metrics=metrics, save_ts=marks)
    np.testing.assert_array_equal(found.s, marks)
    alone = ide.run_discrete(ide.Adam(RATES.values[2]), QUADRATIC, 1.0, 200, ts=marks)
    lane = found.isel(learning_rate=2)
    np.testing.assert_allclose(lane.discrete_theta, alone.theta, rtol=1e-12)
    way = np.sum(np.abs(np.diff(lane.theta))) - alone.theta[-1]
    np.testing.assert_allclose(lane.way, way, rtol=1e-10)
    np.testing.assert_allclose(
        lane.max_error, np.max(np.abs(lane.theta - lane.discrete_theta)), rtol=1e-10
    )


@pytest.mark.slow
def test_starts_paths_of_arrays_and_points():
    theta0 = {"a": np.array([[1.0, 2.0], [0.5, -1.0], [3.0, 0.0]])}
    objective = lambda x: jnp.sum((x["a"] - 4.0) ** 2)
    over = {"theta0": theta0, "model.eps": [1e-8, 1e-3]}
    base = {"a": jnp.zeros(2)}
    found = sweep(over, 20, objective=objective, theta0=base)
    assert found["final_theta.a"].shape == (3, 2, 2)
    alone = single(ide.Adam(0.01, eps=1e-3), 20, objective, {"a": jnp.asarray([0.5, -1.0])})
    np.testing.assert_allclose(found["final_theta.a"][1, 1], alone.theta["a"][-1], rtol=1e-8)
    points = ide.points({"learning_rate": [0.1, 0.01], "objective.curvature": [1.0, 3.0]})
    found = sweep(points, 20)
    assert found.sizes == {"point": 2}
    alone = single(ide.Adam(0.01), 20, ide.Quadratic(3.0))
    np.testing.assert_allclose(found.final_theta[1], alone.theta[-1], rtol=1e-8)


def test_samples_are_spread_as_the_axis_says():
    over = {"b2": ide.axis([0.9, 0.9999], label="1-b2", scale="log"), "eps": [1e-8, 1e-7]}
    for sampler in ("sobol", "random"):
        drawn = ide.points(over, 64, sampler=sampler)
        logs = np.log10(1 - drawn.axes["b2"].values)
        assert -4 <= logs.min() < -3.8
        assert -1.2 < logs.max() <= -1
        assert abs(logs.mean() + 2.5) < 0.3


def test_three_bad_lanes_touch_no_other():
    def objective(theta, bad):
        bowl = 0.5 * theta**2 - theta
        broken = jnp.sqrt(jnp.where(bad == 1, 0.2 - theta, 1.0))  # until it is not real
        rough = jnp.cos(1e5 * theta)  # no step is small enough for long
        odd = jnp.where(bad == 1, broken, jnp.where(bad == 2, rough, -theta))
        return jnp.where(bad == 0, bowl, odd)

    bad, rates = np.zeros(256), np.geomspace(1e-3, 1e-1, 256)
    bad[17], bad[100], bad[200] = 1, 2, 3
    rates[200] = 1e6
    # no hand-over, so that the steps run out
    method = ide.Markov(
        ide.ExponentialMultistep(3), rtol=1e-5, atol=1e-8, max_steps=1000, steady_tol=None
    )
    points = ide.points({"learning_rate": rates, "args": bad})
    options = {"args": 0.0, "method": method, "batch": 256, "discrete": False, "theta0": 0.1}
    found = sweep(points, 300, objective=objective, **options)
    status = [STATUS.split()[i] for i in found.status.values]
    assert (status[17], status[100], status[200]) == ("non-finite", "out_of_steps", "diverged")
    others = [i for i in range(256) if i not in (17, 100, 200)]
    assert {status[i] for i in others} == {"done"}

    @jax.jit
    def alone(rate):
        ts = np.array([0.0, 300.0])
        path = ide.solve(ide.Adam(rate), objective, 0.1, ts, args=0.0, method=method, throw=False)
        return path.theta[-1]

    singles = [alone(rates[i]) for i in others]
    np.testing.assert_allclose(found.final_theta[others], singles, rtol=1e-10)


def test_another_method_goes_batch_by_batch():
    method = ide.Markov()
    whole = sweep({"learning_rate": RATES}, 20, method=ide.History(substeps=8), batch=2)
    rounds = sweep({"learning_rate": RATES}, 20, method=method)
    np.testing.assert_allclose(whole.final_theta, rounds.final_theta, rtol=1e-4)


@pytest.mark.slow
def test_stiff_lanes_of_many_parameters_come_to_rest():
    """At the smaller rate the explicit method alone is out of steps."""
    tols = {"rtol": 1e-4, "atol": 1e-7, "steady_tol": 1e-3}
    method = ide.Markov(max_steps=20_000, max_gradients=None, **tols)
    given = ide.RMSProp(0.01, 0.9), Bowls(), jnp.linspace(1.0, 3.0, 40), 600
    over = {"learning_rate": [0.01, 0.03]}
    found = ide.sweep(*given, over, method=method, discrete=False, progress=False)
    assert [STATUS.split()[i] for i in found.status.values] == ["steady", "steady"]
    np.testing.assert_allclose(found.final_theta, 4.0, rtol=0, atol=1e-3 * 3.0)


@pytest.mark.slow
def test_single_precision_keeps_the_digits_of_b2(float32):
    b2 = 1 - np.geomspace(1e-5, 1e-3, 3)
    found = sweep({"b2": b2}, 100, method=ide.Markov(rtol=1e-4, atol=1e-6))
    assert found.final_theta.dtype == np.float32
    with jax.enable_x64(True):
        precise = sweep({"b2": b2}, 100)
    np.testing.assert_allclose(found.final_theta, precise.final_theta, rtol=1e-4)


def test_a_store_is_the_data_set_and_resumes(tmp_path):
    over = {"learning_rate": RATES, "b2": B2}
    path = tmp_path / "sweep.zarr"
    whole = sweep(over)
    kept = sweep(over, store=path)
    xr.testing.assert_allclose(kept.load().drop_attrs(), whole.drop_attrs(), rtol=1e-12)
    opened = xr.open_zarr(path, chunks=None, consolidated=False)
    np.testing.assert_array_equal(opened.status, 0)
    # as if it had been killed: some lanes are not marked as run
    missing = opened.load()
    missing.status[2:4] = 8
    missing[["status"]].drop_vars(list(missing.coords)).to_zarr(
        path, region={"learning_rate": slice(0, 5), "b2": slice(0, 3)}, consolidated=False
    )
    again = sweep(over, store=path)
    xr.testing.assert_allclose(again.load().drop_attrs(), whole.drop_attrs(), rtol=1e-12)


REFUSED = [
    ({"model": ide.Adam(0.01, eps=1e-7)}, r"another model\.eps: 1e-08 there, 1e-07 here"),
    ({"steps": 201}, "another steps: 200 there, 201 here"),
    ({"objective": ide.Quadratic(3.0)}, r"another objective\.curvature: 2.0 there, 3.0 here"),
    ({"discrete": False}, "another discrete: True there, False here"),
]


def test_a_store_of_another_sweep_is_refused(tmp_path):
    path, over = tmp_path / "sweep.zarr", {"learning_rate": [0.1]}
    sweep(over, store=path)
    for changed, message in REFUSED:
        with pytest.raises(ValueError, match=message):
            sweep(over, store=path, **changed)
    with pytest.raises(ValueError, match="another over.learning_rate"):
        sweep({"learning_rate": [0.2]}, store=path)
    xr.Dataset({"x": ("a", [1])}).to_zarr(tmp_path / "other.zarr", consolidated=False)
    with pytest.raises(ValueError, match="is another Zarr store"):
        sweep(over, store=tmp_path / "other.zarr")


WRONG = [
    ({"b3": [0.9]}, "must have names of what there is, 'learning_rate', 'b1'.*has 'b3'"),
    ({"learning_rat": [0.9]}, "Did you mean 'learning_rate'"),
    ({"b2": [[0.9]]}, r"Axis 'b2' must have shape \(n,\), but has shape \(1, 1\)"),
    ({"b2": 0.9}, r"has shape \(\)\. For one value give it to the model"),
    ({"b2": []}, "Axis 'b2' must have a value, but is empty"),
    ({"b2": [0.9, 0.9]}, r"must have each value once, but has 0\.9 2 times"),
    ({"b2": [0.9, 1.0]}, r"must lie in \[0, 1\), but has 1\.0"),
    ({"b2": [np.nan]}, "must be finite"),
    ({"b2": ["x"]}, "must be a list of numbers"),
    ({"learning_rate": [-1.0]}, "must be positive, but has -1"),
    ({"theta0": {"a": np.ones((2, 3))}}, "must have an array of numbers, a row for each value"),
    ({"theta0": np.ones((2, 3))}, r"must have a row of shape \(\) for each value"),
    ({}, "must be a dict from names to values"),
]


@pytest.mark.parametrize(("over", "message"), WRONG)
def test_a_wrong_axis_is_named(over, message):
    with pytest.raises(ValueError, match=message):
        sweep(over)


OPTIONS = [
    ({"batch": 0}, "`batch` must be a positive integer"),
    ({"steps": 0}, "`steps` must be a positive integer"),
    ({"save_ts": [0, 300]}, "`save_ts` must be increasing integers from 0 to 200"),
    ({"metrics": {"theta": len}}, "`metrics` must have a function, by a name other than"),
    ({"devices": 99}, "`devices` must be 1 to"),
    ({"devices": []}, "`devices` must be some of"),
    ({"method": "x"}, "`method` must be a method"),
]


@pytest.mark.parametrize(("options", "message"), OPTIONS)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        sweep({"b2": [0.9]}, **options)


def test_wrong_points_are_named():
    with pytest.raises(ValueError, match="values of one length"):
        ide.points({"b1": [0.1, 0.2], "b2": [0.9]})
    with pytest.raises(ValueError, match="each point once"):
        ide.points({"b1": [0.1, 0.1], "b2": [0.9, 0.9]})
    with pytest.raises(ValueError, match="two values to sample between"):
        ide.points({"b1": [0.1, 0.2, 0.3]}, 4)
    with pytest.raises(ValueError, match="`sampler` must be one of"):
        ide.points({"b1": [0.1, 0.2]}, 4, sampler="grid")
    with pytest.raises(ValueError, match="`n` must be a positive integer"):
        ide.points({"b1": [0.1, 0.2]}, 0)


def test_a_batch_larger_than_the_memory_is_told_beforehand(monkeypatch):
    monkeypatch.setattr("idemodels._sweep.run._memory", lambda: 2**20)
    with pytest.raises(ValueError, match=r"`batch` must be at most \d+ here, where a lane takes"):
        sweep({"learning_rate": np.linspace(0.1, 0.2, 5000)}, batch=5000)


def test_a_store_that_cannot_be_written_or_is_open_elsewhere(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="can be written to, but .* cannot: "):
        sweep({"b2": [0.9]}, store=tmp_path / "file" / "x.zarr")
    hold = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX);"
        "print('held', flush=True); time.sleep(60)"
    )
    lock = tmp_path / ".x.zarr.lock"
    holder = subprocess.Popen([sys.executable, "-c", hold, str(lock)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(ValueError, match="no other process writes to"):
            sweep({"b2": [0.9]}, store=tmp_path / "x.zarr")
    finally:
        holder.kill()
        holder.communicate()


SCRIPT = """
import sys, jax, numpy as np
jax.config.update("jax_enable_x64", True)
import idemodels as ide
from idemodels._sweep.store import Store

note, log = Store.note, open(sys.argv[2] + ".log", "a", buffering=1)
print("begin", file=log)


def logged(self, lanes, found):
    print(*lanes, file=log)
    note(self, lanes, found)


Store.note = logged
over = {"learning_rate": np.geomspace(1e-3, 1e-1, 40), "b2": 1 - np.geomspace(1e-1, 1e-3, 25)}
found = ide.sweep(
    ide.Adam(0.01), ide.Quadratic(), 1.0, 2000, over, store=sys.argv[1], batch=32, progress=False
)
np.save(sys.argv[2], found.final_theta.values)
"""


def script(tmp_path, *arguments, source=SCRIPT, **environment):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | environment
    command = [sys.executable, "-c", source, *map(str, arguments)]
    with (tmp_path / "stderr").open("a") as errors:
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=errors)


def finished_lanes(path):
    try:
        with xr.open_zarr(path, chunks=None, consolidated=False) as there:
            return int(np.sum(there.status.values != 8))
    except (OSError, ValueError, KeyError):
        return 0


@pytest.mark.slow
def test_killed_at_any_moment_it_resumes(tmp_path):
    kills, quick = 6, {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # each compiles the sweep again
    whole = script(tmp_path, tmp_path / "whole.zarr", "whole.npy", **quick)
    assert whole.wait(300) == 0
    rng, path = np.random.default_rng(0), tmp_path / "killed.zarr"
    log, before = tmp_path / "killed.npy.log", 0
    for _ in range(kills):
        started = len(log.read_text()) if log.exists() else 0
        process = script(tmp_path, path, "killed.npy", **quick)
        deadline = time.monotonic() + 60
        while not log.exists() or len(log.read_text()) < started + len("begin\n0"):
            assert time.monotonic() < deadline
            assert process.poll() is None, (tmp_path / "stderr").read_text()
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.15))  # all of it takes about two seconds
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = finished_lanes(path)
        assert now >= before  # nothing that was kept is lost
        before = now
    process = script(tmp_path, path, "killed.npy", **quick)
    assert process.wait(300) == 0, (tmp_path / "stderr").read_text()
    a, b = np.load(tmp_path / "whole.npy"), np.load(tmp_path / "killed.npy")
    np.testing.assert_allclose(b, a, rtol=1e-12)
    runs = log.read_text().split("begin\n")[1:]
    counts, in_flight = np.zeros(1000, int), 0
    for run in runs:
        lines = [[int(lane) for lane in line.split()] for line in run.splitlines()]
        for lanes in lines:
            np.add.at(counts, lanes, 1)
        in_flight += len(lines[-1])  # the kill came before or while these were kept
    assert counts.min() == 1
    assert np.sum(counts - 1) <= in_flight
    assert len(runs) == kills + 1
    assert not list(tmp_path.glob(".killed.zarr.journal*"))


def test_what_a_killed_process_had_not_written_is_in_its_journal(tmp_path, monkeypatch):
    path, over = tmp_path / "sweep.zarr", {"learning_rate": RATES}
    whole = sweep(over)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sweep(over, store=path)
    (journal,) = tmp_path.glob(".sweep.zarr.journal.0")
    with journal.open("ab") as file:
        file.write(b"half a record")
    assert finished_lanes(path) == 0
    monkeypatch.setattr(Mapped, "__call__", None)  # nothing is left to be computed
    again = sweep(over, store=path)
    for name in whole.data_vars:
        np.testing.assert_array_equal(again[name], whole[name])
    assert not journal.exists()


def test_a_journal_of_a_store_that_was_removed_is_nobodys(tmp_path):
    path = tmp_path / "sweep[1].zarr"  # a name that is a pattern too
    stale = Journal(tmp_path / ".sweep[1].zarr.journal.0")
    stale.append(np.arange(5), {"status": np.zeros(5, np.int8), "final_loss": np.full(5, -1.0)})
    stale.close()
    found = sweep({"learning_rate": RATES}, store=path, discrete=False)
    assert (found.final_loss > 0).all()
    assert not list(tmp_path.glob(".*journal*"))


@pytest.mark.slow
def test_ctrl_c_finishes_the_round_and_says_how_to_go_on(tmp_path):
    path = tmp_path / "sweep.zarr"
    process = script(tmp_path, path, "x.npy")
    deadline = time.monotonic() + 120
    while not finished_lanes(path) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    err = (tmp_path / "stderr").read_text()
    assert "lanes are finished, and kept in" in err
    assert "The same call goes on from there." in err


DEVICES = """
import sys, jax, numpy as np
jax.config.update("jax_enable_x64", True)
import idemodels as ide
assert len(jax.local_devices()) == 8
over = {"learning_rate": np.geomspace(1e-3, 1e-1, 37)}
run = lambda devices: ide.sweep(
    ide.Adam(0.01), ide.Quadratic(), 1.0, 300, over, batch=16, progress=False, devices=devices
)
one, all = run(1), run(None)
for name in one.data_vars:
    np.testing.assert_allclose(all[name], one[name], rtol=1e-12, atol=1e-13, err_msg=name)
"""


@pytest.mark.slow
def test_eight_devices_give_the_values_of_one(tmp_path):
    flags = "--xla_force_host_platform_device_count=8"
    process = script(tmp_path, source=DEVICES, XLA_FLAGS=flags)
    assert process.wait(300) == 0, (tmp_path / "stderr").read_text()


PROCESSES = """
import sys, jax, numpy as np
jax.config.update("jax_enable_x64", True)
jax.distributed.initialize(f"127.0.0.1:{sys.argv[2]}", 2, int(sys.argv[1]))
import idemodels as ide
over = {"learning_rate": np.geomspace(1e-3, 1e-1, 4097)}
found = ide.sweep(
    ide.Adam(0.01), ide.Quadratic(), 1.0, 30, over, store="both.zarr", batch=512, progress=False
)
assert (found.status.values != 8).all()
"""


@pytest.mark.slow
def test_two_processes_share_a_store(tmp_path):
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    both = [script(tmp_path, i, port, source=PROCESSES) for i in range(2)]
    for process in both:
        assert process.wait(300) == 0, (tmp_path / "stderr").read_text()
    over = {"learning_rate": np.geomspace(1e-3, 1e-1, 4097)}
    alone = sweep(over, 30, batch=512)
    with xr.open_zarr(tmp_path / "both.zarr", chunks=None, consolidated=False) as found:
        np.testing.assert_allclose(found.final_theta, alone.final_theta, rtol=1e-12)


def least_squares(theta, data):
    return jnp.mean((data[0] @ theta - data[1]) ** 2)


LEFT = np.random.default_rng(0).normal(size=(4, 10, 3))
RIGHT = LEFT @ np.array([1.0, -2.0, 0.5])
PAIR = {"objective": least_squares, "theta0": jnp.zeros(3), "args": (LEFT[0], RIGHT[0])}


@pytest.mark.parametrize("kind", [tuple, list])
def test_data_in_a_tuple_or_a_list_is_an_axis(kind):
    method = ide.Markov(rtol=1e-5, atol=1e-8)
    given = PAIR | {"args": kind(PAIR["args"]), "method": method, "discrete": False}
    over = {"args": kind([LEFT, RIGHT])}
    if kind is list:
        over = ide.points(over | {"learning_rate": [0.01] * 4})
    found = sweep(over, 20, **given)
    alone = ide.solve(
        ide.Adam(0.01),
        least_squares,
        jnp.zeros(3),
        np.array([0.0, 20.0]),
        args=(LEFT[2], RIGHT[2]),
        method=method,
    )
    np.testing.assert_allclose(found.final_theta[2], alone.theta[-1], rtol=1e-8)


def test_a_start_in_a_tuple_keeps_what_is_no_array():
    """Rows may be lists too, and an index stays an integer."""

    def objective(theta, which):
        a, b, power, _ = theta
        return jnp.sum((a - 1.0) ** power) + (b - jnp.arange(3.0)[which]) ** 2

    theta0 = (jnp.zeros(2), jnp.zeros(()), 2, "kept")
    over = ide.points({"theta0": ([[1.0, 1.0]] * 3, np.arange(3.0), None, None), "args": [0, 1, 2]})
    given = {"objective": objective, "theta0": theta0, "args": 0, "discrete": False}
    found = sweep(over, 3, **given)
    np.testing.assert_allclose(found.final_loss, 0.0, atol=1e-20)
    np.testing.assert_array_equal(found["args"], [0, 1, 2])


ROWS = [
    ({"args": (LEFT,)}, {}, r"Axis 'args' must be a pytree like what it replaces, PyTreeDef\(\("),
    ({"args": (LEFT, RIGHT[:3])}, {}, r"has 3 rows at \[1\] and 4 at \[0\]"),
    ({"args": (LEFT, LEFT)}, {}, r"at \[1\] a row of shape \(10,\) .* shape \(4, 10, 3\)"),
    ({"args": (LEFT, "x")}, {}, r"must have at \[1\] an array of numbers, .* but has 'x'"),
    ({"args": (LEFT, [[0.0] * 10, [0.0]])}, {}, r"must have at \[1\] an array of numbers"),
    ({"args": ide.axis([1.0, 2.0])}, {}, "must be a pytree like what it replaces"),
    ({"args": (LEFT[:0], RIGHT[:0])}, {}, "must have a value, but is empty"),
    ({"args": (LEFT, RIGHT)}, {"args": None}, "`args` must be given where the axis 'args' is"),
    ({"theta0": [1.0, 2.0]}, {}, r"must have a row of shape \(3,\) .* one of shape \(2,\)"),
    ({"theta0": "abc"}, {}, "must have an array of numbers"),
    (ide.points({"args": (LEFT, RIGHT), "eps": [1e-8]}), {}, "have values of one length"),
]


@pytest.mark.parametrize(("over", "given", "message"), ROWS)
def test_rows_that_do_not_fit_are_named_in_short(over, given, message):
    with pytest.raises(ValueError, match=message) as e:
        sweep(over, **(PAIR | given))
    assert len(str(e.value)) < 400


def test_a_value_that_only_a_model_made_for_it_takes_is_refused():
    with pytest.raises(ValueError, match=r"Axis 'b2' must have values that Adam takes .* has 0\.0"):
        sweep({"b2": [0.0, 0.9]})
    with pytest.raises(ValueError, match=r"Axis 'b2' must have values"):
        sweep(ide.points({"b2": [0.9, 0.0], "b1": [0.0, 0.0]}))


@pytest.mark.slow
def test_a_schedule_and_an_advanced_model_are_swept():
    warm = lambda s, peak, steps: peak * jnp.minimum(s / steps, 1.0)
    model = ide.Adam(ide.Schedule(warm, peak=0.01, steps=20.0))
    found = sweep({"model.learning_rate.parameters['peak']": [1e-3, 1e-2]}, 50, model=model)
    np.testing.assert_allclose(found.final_theta[1], single(model, 50).theta[-1], rtol=1e-4)
    model = ide.RMSProp(0.01, 0.9, reading="advanced")
    found = sweep({"learning_rate": [1e-3, 1e-2]}, 50, model=model, method=ide.FixedPoint())
    alone = single(model, 50, method=ide.FixedPoint())
    np.testing.assert_allclose(found.final_theta[1], alone.theta[-1], rtol=1e-8)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
import idemodels as ide
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

x = np.random.default_rng(0).normal(size=(8, 3))
y = x @ np.array([1.0, -2.0, 0.5])
loss = lambda w, a: jnp.mean((a[0] @ w - a[1]) ** 2)
parts = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), P("data"))
split = tuple(jax.device_put(a, parts) for a in (x, y))
other = tuple(jax.device_put(a, jax.devices()[1]) for a in (x, y))
theta0 = jax.device_put(jnp.zeros(3), NamedSharding(parts.mesh, P()))
run = lambda loss, **options: ide.sweep(
    ide.Adam(0.05), loss, theta0, 20, {"b2": [0.9, 0.99]}, progress=False, **options
)
whole = run(loss, args=(x, y), devices=1)
for data in (split, other):
    for devices in (None, 1):
        found = run(loss, args=data, devices=devices)
        np.testing.assert_allclose(found.final_theta, whole.final_theta, rtol=1e-10)
found = run(lambda w: loss(w, split))
np.testing.assert_allclose(found.final_theta, whole.final_theta, rtol=1e-10)
"""


@pytest.mark.slow
def test_data_in_parts_on_devices_is_swept(tmp_path):
    flags = "--xla_force_host_platform_device_count=2"
    process = script(tmp_path, source=SHARDED, XLA_FLAGS=flags)
    assert process.wait(300) == 0, (tmp_path / "stderr").read_text()
