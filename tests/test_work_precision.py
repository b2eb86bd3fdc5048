"""The work-precision benchmark: its records, the page made of them, and what it measures with."""

import json
import math
import sys
from pathlib import Path

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import idemodels as ide
from benchmarks import curve, process, references, scale, work_tables
from benchmarks.__main__ import ALONE, FILES, curve as run_curve, main
from benchmarks.contestants import CONTESTANTS, QUICK, pairs, settings
from benchmarks.counting import Counted, Counter
from benchmarks.descents import DESCENTS, flat
from benchmarks.figures import draw
from benchmarks.fronts import front, least
from benchmarks.problems import PROBLEMS
from benchmarks.records import insert
from benchmarks.solvers import Unavailable
from benchmarks.solvers.published import prepare

HERE = Path(__file__).parents[1] / "benchmarks"
RESULTS = HERE / "results"
HEAD = {"problem", "contestant", "config", "commit", "result", "error"}
MEASURED = {"versions", "python", "device", "x64"}
POINT = {"gradients", "counted", "steps", "rejected", "sweeps", "best_s", "compile_s", "repeats"}
LARGE = {"gradient_s", "solve_s", "step_s", "step_in_gradients", "overhead", "gradients", "steps"}


@pytest.fixture(autouse=True)
def kept_elsewhere(monkeypatch, tmp_path):
    """No test takes a reference that another run left."""
    monkeypatch.setenv(references.FOLDER, str(tmp_path))


def pages():
    return [json.loads((RESULTS / name).read_text()) for name in (*FILES, *ALONE)]


def test_the_records_kept_have_their_shape():
    work, large, *_ = pages()
    ran = [(r["problem"], r["contestant"]) for r in work["records"]]
    assert ran == pairs(quick=work["quick"])
    for r in work["records"]:
        assert {*HEAD, "points"} <= set(r), r
        assert not r["points"] or set(r) >= MEASURED or "stopped" in r["result"], r
        for p in r["points"]:
            assert p["error"] is None or (math.isfinite(p["error"]) and set(p) >= POINT), p
            assert p["error"] is not None or p["result"] != "successful", p
    for r in large["records"]:
        assert set(r) >= HEAD, r
        assert r["result"] != "successful" or set(r) >= LARGE | MEASURED, r


def test_the_page_is_made_of_the_records_kept():
    readme = (HERE / "README.md").read_text()
    assert insert(readme, work_tables.tables(*pages()), "benchmarks") == readme


@pytest.mark.parametrize("quick", [False, True])
def test_every_curve_has_tolerances_or_says_why_not(quick):
    cases = pairs(quick)
    assert {name for _, name in cases} == set(QUICK if quick else CONTESTANTS)
    refused = []
    for problem, name in cases:
        try:
            chosen = settings(problem, name, quick)
        except Unavailable:
            refused.append((problem, name))
        else:
            assert chosen
            rtols = [setting.get("rtol", 1.0) for setting in chosen]
            assert rtols == sorted(rtols, reverse=True)
    assert all(name.startswith("kvaerno") and "digits" in problem for problem, name in refused)


def test_a_curve_is_measured():
    lines = list(curve.measure("paper_coarse", "plain", [{"rtol": 1e-4, "atol": 1e-4}], 0.0))
    head, point = lines[0]["head"], lines[-1]["point"]
    assert set(head) == MEASURED
    assert set(point) == {*POINT, "rtol", "atol", "result", "error"}
    assert point["result"] == "successful"
    assert point["repeats"] == 1
    assert 0 < point["error"] < 1e-3


def test_a_failed_point_is_a_record(monkeypatch):
    def solve(setting):
        raise ArithmeticError("no\nway")

    monkeypatch.setitem(curve._PREPARE, "discrete", lambda problem, name: (solve, None))
    lines = list(curve.measure("paper_coarse", "discrete", [{}]))
    assert lines[-1]["point"] == {"result": "ArithmeticError: no", "error": None}


def test_a_curve_that_does_not_end_or_start_is_a_record():
    late = run_curve("paper_coarse", "published", True, 0.01)
    assert late["result"] == "stopped after 0.01 s"
    assert late["points"] == [{"result": "stopped after 0.01 s", "error": None}]
    dense = run_curve("digits", "kvaerno3", False, 0.01)
    assert dense["result"] == "not run: its Jacobian is dense, 7,230 columns a step"
    assert dense["points"] == []
    without = run_curve("paper_coarse", "tsit5", True, 0.01, "exit 1: no disk")
    assert without["result"] == "no reference: exit 1: no disk"
    assert set(without) >= HEAD


def test_a_process_says_how_it_ended():
    run = lambda code, limit=60.0: process.run([sys.executable, "-c", code], limit)
    assert run("print(1); print(2)") == (["1", "2"], "")
    assert run("import sys; print(1); sys.exit(3)") == (["1"], "exit 3: no message")
    assert run("raise ValueError('no')")[1] == "exit 1: ValueError: no"
    slow = "import time; print(1, flush=True); time.sleep(60)"
    assert run(slow, 2.0) == (["1"], "stopped after 2 s")


def test_gradients_are_counted_as_the_solver_counts_them():
    counter = Counter()
    ts, start = jnp.linspace(0.0, 20.0, 3), jnp.asarray(1.0)
    method = ide.Markov(dfx.Tsit5(), rtol=1e-3, atol=1e-3)
    path = ide.solve(
        ide.Adam(0.1), Counted(ide.Quadratic(), counter), start, ts, method=method, throw=False
    )
    jax.effects_barrier()
    assert counter.count == int(path.stats["num_gradients"])


def test_a_dense_jacobian_counts_its_columns():
    counter = Counter()
    gradient = jax.grad(Counted(ide.Rosenbrock(), counter))
    theta = jnp.array([-1.2, 1.0])
    hessian = jax.jacfwd(gradient)(theta)
    jax.effects_barrier()
    assert counter.count == 1 + 2
    np.testing.assert_allclose(hessian, jax.hessian(ide.Rosenbrock())(theta), rtol=1e-12)


def test_the_published_scheme_is_that_of_the_authors():
    peers = json.loads((RESULTS / "peers.json").read_text())["records"]
    theirs = next(r for r in peers if r["solver"] == "authors" and r["problem"] == "adam")
    exact = PROBLEMS["adam"].exact()
    solved = prepare(PROBLEMS["adam"], {})()
    assert solved.result == "successful"
    assert solved.sweeps == theirs["sweeps"]
    error = np.max(np.abs(solved.theta - exact))
    np.testing.assert_allclose(error, theirs["max_error"], rtol=2e-3)
    looped = prepare(PROBLEMS["adam"], {"loop": True})()
    np.testing.assert_allclose(looped.theta, solved.theta, rtol=0, atol=1e-12)


def test_the_reference_of_the_digits_has_their_gradient():
    objective = ide.DigitsMLP()
    loss = references._digits(references.from_tests("references"))
    as_rows = lambda tree: flat(jax.tree.map(lambda x: x[None], tree))[0]
    theta0 = objective.theta0
    np.testing.assert_array_equal(loss.theta0, as_rows(theta0))
    theta = jax.tree.map(lambda x: x + 0.1, theta0)
    by_jax = as_rows(jax.grad(objective)(theta))
    np.testing.assert_allclose(loss.gradient(as_rows(theta)), by_jax, rtol=0, atol=1e-15)


def test_references_are_kept():
    theta = references.reference("paper_coarse")
    descent = DESCENTS["paper_coarse"]
    assert theta.shape == (descent.ts.size, descent.parameters)
    np.save(references.kept_at("paper_coarse"), theta + 1.0)
    np.testing.assert_array_equal(references.reference("paper_coarse"), theta + 1.0)


@pytest.mark.parametrize("size", scale.SIZES)
def test_networks_have_about_as_many_parameters_as_they_say(size):
    assert abs(scale.SIZES[size].parameters / float(size) - 1.0) < 0.01


def record(name, *points, problem="paper_coarse"):
    keys = ("error", "gradients", "best_s")
    points = [dict(zip(keys, p, strict=True)) | {"result": "successful"} for p in points]
    return {"problem": problem, "contestant": name, "points": points}


def test_a_front_has_no_point_that_another_beats():
    r = record("tsit5", (1e-2, 10, 1.0), (1e-1, 20, 1.0), (1e-4, 30, 1.0), (1e-3, 25, 1.0))
    r["points"].append({"result": "stopped", "error": None})
    assert [p["gradients"] for p in front(r, "gradients")] == [30, 25, 10]
    assert least(r, "gradients", 1e-3)["gradients"] == 25
    assert least(r, "gradients", 1e-5) is None


def test_losses_are_found_and_nothing_else():
    ours = record("markov", (1e-4, 40, 1e-3))
    worse = [ours, record("tsit5", (1e-4, 50, 2e-3))]
    assert work_tables._losses(worse, [], []) == "In no comparison below."
    better = [ours, record("tsit5", (1e-4, 20, 2e-3), (1e-7, 90, 3e-3))]
    said = work_tables._losses(better, [], [])
    assert said.startswith("In 3 comparisons")
    assert "2 times (40, 20)" in said
    assert said.count("does not get there") == 2


def test_the_command_makes_page_and_figures_of_records(tmp_path):
    (tmp_path / "results").mkdir()
    for name in FILES:
        (tmp_path / "results" / name).write_bytes((RESULTS / name).read_bytes())
    assert main(["--page", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "README.md").read_text() == (HERE / "README.md").read_text()
    for name in ("error_gradients.svg", "error_seconds.svg"):
        assert (tmp_path / "figures" / name).read_text().startswith("<?xml")


def test_every_contestant_has_a_line_of_its_own(tmp_path):
    page = {"records": [record(name, (1e-3, 10, 1.0), (1e-4, 20, 2.0)) for name in CONTESTANTS]}
    assert all(path.stat().st_size > 0 for path in draw(page, tmp_path, "png"))
