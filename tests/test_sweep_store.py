"""A store is taken up by a sweep that computes the same, and by no other."""

import importlib
import os
import subprocess
import sys
import warnings
from pathlib import Path

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

import idemodels as ide
from idemodels._sweep.names import variables
from idemodels._sweep.program import program
from idemodels._sweep.rounds import STATUS
from idemodels._sweep.slots import Mapped

# What two processes have in common, each in a file of its own.
SETTINGS = """
import jax, jax.numpy as jnp, numpy as np, optax
jax.config.update("jax_enable_x64", True)
import idemodels as ide

DATA = np.linspace(1.0, 3.0, 6)


def direction(s, theta, g, moments):
    return jax.tree.map(lambda g, v: g / (jnp.sqrt(v) + 1e-3), g, moments["v"])


def own(feature=lambda g: g**2, direction=direction, kernel=lambda s: jnp.exp(-s)):
    memory = ide.Memory(ide.FunctionKernel(kernel), feature)
    return ide.MemoryModel({"v": memory}, direction, 0.01)


def sweep(store, objective, theta0=1.0, model=None, over=None, **options):
    model = ide.Adam(0.01) if model is None else model
    over = {"b2": [0.9, 0.99]} if over is None else over
    options = {"progress": False, "discrete": False, "batch": 2, "steps": 3} | options
    return ide.sweep(model, objective, theta0, options.pop("steps"), over, store=store, **options)
"""
# What is made in one process, and what in the other computes the same.
MADE = {
    "lambda": "sweep(store, lambda t: (t - 3.0) ** 2)",
    "data": "sweep(store, lambda t: jnp.mean((t - DATA) ** 2), args=None)",
    "args": "sweep(store, lambda t, a: jnp.mean((t - a) ** 2), np.ones(2), args=np.ones((4, 2)))",
    "schedule": "sweep(store, ide.Quadratic(), model=ide.Adam(optax.constant_schedule(0.01)))",
    "metric": "sweep(store, ide.Quadratic(), metrics={'m': lambda c, r: c.loss[-1]})",
    "own": "sweep(store, ide.Quadratic(), model=own(), over={'learning_rate': [0.1]},"
    "method=ide.History(substeps=1))",
    "swept": "sweep(store, ide.Quadratic(), model=ide.Adam(0.01), over={'learning_rate': [0.1]})",
    "flow": "sweep(store, ide.Quadratic(), model=ide.InterpolatingFlow(optax.sgd(0.1), 1, 0),"
    "over={'objective.curvature': [1.0, 2.0]})",
}
SAME = {
    "lambda": "sweep(store, jax.jit(shifted))",
    "data": "sweep(store, meaned(jnp.asarray(DATA)), devices=2)",
    "args": "sweep(store, lambda x, y: jnp.mean((x - y) ** 2), jnp.ones(2), args=jnp.ones((4, 2)))",
    "schedule": "sweep(store, ide.Quadratic(), model=ide.Adam(lambda count: 0.01), batch=1)",
    "metric": "sweep(store, ide.Quadratic(), metrics={'m': last_loss})",
    "own": "sweep(store, ide.Quadratic(), model=own(squared, along, fading),"
    "over={'learning_rate': np.array([0.1])}, method=ide.History(substeps=1))",
    "swept": "sweep(store, ide.Quadratic(), model=ide.Adam(0.5), over={'learning_rate': (0.1,)})",
    "flow": "sweep(store, ide.Quadratic(5.0), model=ide.InterpolatingFlow(descent, 1, 0),"
    "over={'objective.curvature': ide.axis([1.0, 2.0])})",
}
AGAIN = """

def shifted(theta):
    moved = theta - 3.0
    return moved**2


def meaned(data):
    return lambda theta: jnp.mean((theta - data) ** 2)


def last_loss(path, run):
    jax.debug.print("{}", path.loss[-1])
    return path.loss[-1]


def along(step, parameters, gradient, memories):
    scaled = lambda gradient, moment: gradient / (jnp.sqrt(moment) + 1e-3)
    return jax.tree.map(scaled, gradient, memories["v"])


def squared(gradient):
    return gradient**2


def fading(lag):
    return jnp.exp(-lag)


descent = optax.sgd(0.1)
"""
RUN = """
import sys
from idemodels._sweep import run
from idemodels._sweep.slots import Mapped
if sys.argv[1] == "again":
    Mapped.__call__ = None  # nothing is left to be computed
for name, made in CALLS.items():
    if name != "own":  # one is run, the others are known again
        run._Run.follow = lambda *_: None
    exec(made, globals() | {"store": f"{sys.argv[2]}/{name}.zarr"})
    print(name)
"""
TWO = "--xla_force_host_platform_device_count=2"


def run(folder, name, source, calls, *arguments, **environment):
    (folder / f"{name}.py").write_text(source + f"\nCALLS = {calls!r}\n" + RUN)
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | environment
    command = [sys.executable, str(folder / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=600
    )


def test_another_process_goes_on_where_it_computes_the_same(tmp_path):
    here, there, moved = (tmp_path / name for name in ("here", "there", "moved"))
    for folder in (here, there):
        folder.mkdir()
    made = run(here, "one", SETTINGS, MADE, "made", here, PYTHONHASHSEED="1")
    assert made.returncode == 0, made.stderr
    here.rename(moved)
    flags = f"{os.environ.get('XLA_FLAGS', '')} {TWO}"
    source = SETTINGS + AGAIN
    again = run(there, "two", source, SAME, "again", moved, XLA_FLAGS=flags, PYTHONHASHSEED="2")
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stdout.split() == list(SAME)


settings: dict = {}
exec(SETTINGS, settings)
sweep, own, DATA = settings["sweep"], settings["own"], settings["DATA"]
near, far = np.float64(3.0), np.float64(-3.0)
square, QUADRATIC = lambda g: g**2, ide.Quadratic()
shifted_by = lambda at: lambda theta: (theta - at) ** 2
turned = lambda s, theta, g, moments: jax.tree.map(lambda g: 2.0 * g, g)
HISTORY = {"over": {"learning_rate": [0.1]}, "method": ide.History(substeps=1)}
last = lambda path, run: path.loss[-1]
FIXED = ide.Adam(optax.constant_schedule(0.01))
# What is changed, and the part that it is told to be.
CHANGES = {
    "loss": ({"objective": lambda t: (t + 3.0) ** 2}, {}, "another loss: .*sub 3.0.*add 3.0"),
    "closed over": ({"objective": shifted_by(far)}, {}, "another loss: .*sub 3.0.*sub -3.0"),
    "schedule": (
        {"objective": QUADRATIC, "model": ide.Adam(optax.constant_schedule(0.05))},
        {"objective": QUADRATIC, "model": FIXED},
        r"another learning_rate: 0\.01 .* there, 0\.05 ",
    ),
    "metric": (
        {"metrics": {"m": lambda path, run: 0 * path.loss[-1] + 7}},
        {"metrics": {"m": last}},
        "another metric 'm': ",
    ),
    "direction": ({"model": own(square, turned)} | HISTORY, {"model": own()}, "another direction"),
    "kernel": (
        {"model": own(kernel=lambda s: jnp.exp(-2.0 * s))} | HISTORY,
        {"model": own()},
        "another kernel of the memory 'v'",
    ),
    "feature": ({"model": own(jnp.abs)} | HISTORY, {"model": own()}, "feature of the memory 'v'"),
    "theta0": ({"theta0": 2.0}, {}, r"another theta0: 1\.0 there, 2\.0 here"),
    "precision": (
        {"theta0": jnp.ones((), jnp.float32)},
        {"objective": QUADRATIC},
        "another precision: float64 there, float32 here",
    ),
}


@pytest.fixture
def nothing_runs(monkeypatch):
    """Stores are made and told apart, and no lane is run."""
    from idemodels._sweep import run as module

    monkeypatch.setattr(module._Run, "follow", lambda *_: None)


@pytest.mark.parametrize("part", CHANGES)
def test_what_changes_the_numbers_is_refused_and_named(part, tmp_path, nothing_runs):
    changed, made, message = CHANGES[part]
    common = {"objective": shifted_by(near)} | (HISTORY if "method" in changed else {}) | made
    sweep(tmp_path / "a.zarr", **common)
    sweep(tmp_path / "a.zarr", **common)
    with pytest.raises(ValueError, match=message) as e:
        sweep(tmp_path / "a.zarr", **(common | changed))
    assert len(str(e.value)) < 700


def test_other_versions_and_other_functions_are_refused(tmp_path, monkeypatch, nothing_runs):
    identity = importlib.import_module("idemodels._sweep.identity")
    flow = lambda rate: ide.InterpolatingFlow(optax.chain(optax.clip(0.1), optax.sgd(rate)), 1, 0)
    common = {"objective": QUADRATIC, "over": {"objective.curvature": [1.0]}}
    sweep(tmp_path / "a.zarr", model=flow(0.1), **common)
    with pytest.raises(ValueError, match=r"another optimizer: .*0\.1.* there, .*0\.2.* here"):
        sweep(tmp_path / "a.zarr", model=flow(0.2), **common)
    versions = identity.versions() | {"diffrax": "0.0.1"}
    monkeypatch.setattr(identity, "versions", lambda: versions)
    with pytest.raises(ValueError, match=r"another version of diffrax: .* there, 0\.0\.1 here"):
        sweep(tmp_path / "a.zarr", model=flow(0.1), **common)


@pytest.mark.slow
def test_an_event_is_part_of_what_is_computed(tmp_path, nothing_runs):
    past = lambda s, y, args, **_: y.theta > 1.5
    sooner = lambda s, y, args, **_: y.theta > 1.2
    method = lambda condition: ide.Markov(event=dfx.Event(condition))
    sweep(tmp_path / "a.zarr", QUADRATIC, method=method(past))
    sweep(tmp_path / "a.zarr", QUADRATIC, method=method(lambda s, y, a, **_: y.theta > 1.5))
    with pytest.raises(ValueError, match="another method's program"):
        sweep(tmp_path / "a.zarr", QUADRATIC, method=method(sooner))


def test_a_derivative_of_ones_own_is_part_of_the_loss():
    def through(slope):
        @jax.custom_vjp
        def f(x):
            return x**2

        f.defvjp(lambda x: (x**2, x), lambda x, ct: (slope * ct * x,))
        return jax.value_and_grad(f)

    one, two, again = (program(through(slope), jnp.ones(())) for slope in (2.0, 3.0, 2.0))
    assert one == again != two
    inside = lambda n: lambda x: jax.lax.fori_loop(0, n, lambda _, x: jax.nn.relu(x), x)
    assert program(inside(3), jnp.ones(())) == program(inside(3), jnp.ones(()))
    assert program(inside(3), jnp.ones(())) != program(inside(4), jnp.ones(()))


def test_programs_of_the_host_and_random_keys_are_known():
    def on_host(by):
        shape = jax.ShapeDtypeStruct((), jnp.float64)
        return lambda x: jax.pure_callback(lambda x: np.sin(x) * by, shape, x)

    one, two, again = (program(on_host(by), jnp.ones(())) for by in (1.0, 2.0, 1.0))
    assert one == again != two
    drawn = lambda seed: lambda x: x + jax.random.normal(jax.random.key(seed))
    assert program(drawn(0), jnp.ones(())) != program(drawn(1), jnp.ones(()))


TREES = [
    ({"linear/w": 0, "linear/b": 1}, {"t.linear_w": 0, "t.linear_b": 1}),
    ({"a/b": 0, "a": {"b": 1}}, {"t.a_b": 0, "t.a.b": 1}),
    ({"a/b": 0, "a_b": 1}, {"t.a_b": 0, "t.a_b~2": 1}),
    ({"a.b": 0, "a": {"b": 1}}, {"t.a.b": 1, "t.a.b~2": 0}),
    ({"": 0, "x": 1}, {"t._": 0, "t.x": 1}),
    ({"a": [0, {3: 1}]}, {"t.a.0": 0, "t.a.1.3": 1}),
    ({("a", "w"): 0, ("a", "b"): 1}, {"t.a.w": 0, "t.a.b": 1}),
    ({"linear/~/w\n": 0}, {"t.linear_~_w_": 0}),
    (0, {"t": 0}),
]


@pytest.mark.parametrize(("tree", "names"), TREES)
def test_each_leaf_has_a_name_of_its_own(tree, names):
    assert variables({"t": tree}) == names


def test_names_that_a_file_cannot_have_are_cut_and_stay_apart():
    long = {"a" * 300: 0, "a" * 301: 1}
    names = variables({"t": long})
    assert len(names) == 2
    assert all(len(name.encode()) <= 200 for name in names)


class Weighted(eqx.Module):
    weights: dict

    def __call__(self, theta):
        leaves = jax.tree.leaves(theta)
        return self.weights["layer/w"] * sum(jnp.sum((x - 3.0) ** 2) for x in leaves)


def test_parameters_with_slashes_are_kept_and_read(tmp_path):
    """Beside `w` of one axis, `w_0` has the name that its dimension would have."""
    one = jnp.ones(())
    theta0 = {"a/w": one, "a": {"w": one}, "w": jnp.ones(3), "w_0": one}
    given = {"metrics": {"loss/last": lambda path, run: 3.0}, "theta0": theta0}
    given["method"] = ide.History(substeps=1)
    given["over"] = {"objective.weights['layer/w']": [1.0, 2.0]}
    objective = Weighted({"layer/w": jnp.ones(())})
    found = sweep(tmp_path / "a.zarr", objective, **given)
    np.testing.assert_array_equal(found["objective.weights['layer_w']"], [1.0, 2.0])
    final = {name for name in found if str(name).startswith("final_theta")}
    assert final == {"final_theta.a_w", "final_theta.a.w", "final_theta.w", "final_theta.w_0"}
    np.testing.assert_array_equal(found["loss_last"], [3.0, 3.0])
    alone = sweep(None, objective, **given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        there = xr.open_zarr(tmp_path / "a.zarr")
    for dataset in (found, there):
        assert set(dataset.variables) == set(alone.variables)
        for name in alone.data_vars:
            np.testing.assert_array_equal(dataset[name], alone[name])


METRICS = [
    ({"b2": last}, "not those of axes, variables or other metrics, but 'b2' makes 'b2' again"),
    ({"a/b": last, "a_b": last}, "'a_b' makes 'a_b' again"),
    ({"final_theta": last}, "by a name other than final_theta"),
    ({"": last}, "must have names that variables can have"),
    ({"..": last}, "must have names that variables can have"),
    ({"zarr.json": last}, "must have names that variables can have"),
    ({"__m": last}, "must have names that variables can have"),
    ({"m": lambda path, run: None}, "must return arrays, but 'm' returns none"),
    ({"m": lambda path, run: "x"}, "must return arrays or numbers, but 'm' returns 'x'"),
]


@pytest.mark.parametrize(("metrics", "message"), METRICS)
def test_a_wrong_metric_is_named_before_anything_is_run(metrics, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        sweep(tmp_path / "a.zarr", QUADRATIC, metrics=metrics)
    assert not list(tmp_path.iterdir())


STORES = ["s3://bucket/x.zarr", Path("gs://bucket/x.zarr"), "", 3, "~nobody_has_this_name/x.zarr"]


@pytest.mark.parametrize("store", STORES)
def test_a_store_elsewhere_is_refused(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="Argument `store` must be a path"):
        sweep(store, QUADRATIC)
    assert not list(tmp_path.iterdir())


def test_a_store_at_home_is_there(tmp_path, monkeypatch, nothing_runs):
    monkeypatch.setenv("HOME", str(tmp_path))
    sweep("~/x.zarr", QUADRATIC)
    assert (tmp_path / "x.zarr" / "zarr.json").exists()


def test_what_is_no_store_of_a_sweep_is_refused_and_left_alone(tmp_path):
    xr.Dataset({"x": ("t", np.arange(3))}).to_zarr(
        tmp_path / "old.zarr", zarr_format=2, consolidated=False
    )
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("kept")
    with pytest.raises(ValueError, match="is another Zarr store"):
        sweep(tmp_path / "old.zarr", QUADRATIC)
    with pytest.raises(ValueError, match="is something else"):
        sweep(tmp_path / "folder", QUADRATIC)
    with pytest.raises(ValueError, match="is something else"):
        sweep(tmp_path / "folder" / "file", QUADRATIC)
    assert not list(tmp_path.rglob("*.half"))
    assert (tmp_path / "folder" / "file").read_text() == "kept"


def test_a_store_is_taken_up_after_any_failure(tmp_path, monkeypatch):
    """Also after one while it is made, of which nothing is left."""
    path, over = tmp_path / "a.zarr", {"b2": [0.9, 0.99, 0.999]}

    def fails(*_, **__):
        raise RuntimeError("of any kind")

    with monkeypatch.context() as patch:
        patch.setattr(xr.Dataset, "to_zarr", fails)
        with pytest.raises(RuntimeError):
            sweep(path, QUADRATIC, over=over)
    assert not list(tmp_path.rglob("*.half"))
    assert not path.exists()
    with monkeypatch.context() as patch:
        patch.setattr(Mapped, "__call__", fails)
        with pytest.raises(RuntimeError):
            sweep(path, QUADRATIC, over=over)
    with xr.open_zarr(path) as there:
        np.testing.assert_array_equal(there.status, 8)
    assert np.all(sweep(path, QUADRATIC, over=over).status <= 1)


ELSEWHERE = """
import os, sys, warnings
import psutil  # has ways of its own on every system
sys.modules["fcntl"] = None
del os.sysconf
import idemodels as ide
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # filelock's, that a file stands for a lock
    found = ide.sweep(
        ide.Adam(0.1), ide.Quadratic(), 1.0, 3, {"b2": [0.9, 0.99]}, store=sys.argv[1],
        progress=False, discrete=False,
    )
print(found["status"].values.tolist())
"""


def test_a_sweep_needs_nothing_that_windows_and_macos_have_not(tmp_path):
    """Windows has neither `fcntl` nor `os.sysconf`, macOS not what was asked of the latter."""
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "x.zarr")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[0] == str(2 * [STATUS.index("done")]), done.stderr
