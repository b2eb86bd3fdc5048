"""Beside the peers: records have their shape and make the page, the package needs no peer."""

import ast
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import idemodels as ide
from benchmarks import first, flow_tables, peers
from benchmarks.case import measure
from benchmarks.flow_held import held
from benchmarks.flow_optimizers import OPTIMIZERS
from benchmarks.peer_tables import ALWAYS, SOLVED, tables
from benchmarks.problems import LONG, PROBLEMS, mittag_leffler
from benchmarks.records import insert

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "benchmarks" / "results" / "peers.json"
PEERS = {"idesolver", "voles", "phydrax", "Solver", "numba", "benchmarks"}


def imported(path):
    """The top-level names that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def test_the_package_imports_no_peer():
    for path in (ROOT / "idemodels").rglob("*.py"):
        assert not PEERS & set(imported(path)), path


@pytest.mark.parametrize("quick", [False, True])
def test_every_solver_runs_or_says_why_not(quick):
    cases = peers.cases(quick)
    for problem in PROBLEMS:
        assert {solver for solver, name, _ in cases if name == problem} == set(peers.SOLVERS)
    for solver, problem, setting in cases:
        if setting is None:
            record = peers.run_case(solver, problem, setting, "", 1.0)
            assert record["result"].startswith("cannot: ")
            assert set(record) == set(ALWAYS)
    assert all(problem in PROBLEMS or int(problem) in LONG for _, problem, _ in cases)


def test_a_case_is_measured():
    found = measure("ours", "volterra", {"method": "History", "substeps": 16}, seconds=0.0)
    theta = found.pop("theta")
    assert set(found) <= {*ALWAYS, *SOLVED}
    assert set(SOLVED) <= set(found)
    assert found["result"] == "successful"
    assert found["repeats"] == 1
    np.testing.assert_allclose(theta, PROBLEMS["volterra"].exact(), rtol=0, atol=1e-3)


def test_a_solver_that_is_not_there_is_a_record(monkeypatch):
    monkeypatch.delenv("AUTHORS_CHECKOUT", raising=False)
    assert measure("authors", "advanced", {})["result"].startswith("not run: no checkout")


def test_the_records_kept_have_their_shape_and_made_the_page():
    page = json.loads(RECORDS.read_text())
    assert not page["quick"]
    for record in page["records"]:
        solved = record["max_error"] is not None
        assert set(ALWAYS) | (set(SOLVED) if solved else set()) <= set(record), record
        assert record["result"], record
        assert not solved or (math.isfinite(record["max_error"]) and record["best_s"] > 0), record
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    assert insert(readme, tables(page), "benchmarks.peers") == readme


def test_the_record_of_flows_made_the_tables_in_the_readme():
    page = json.loads((ROOT / "benchmarks" / "results" / "flows.json").read_text())
    readme = (ROOT / "README.md").read_text()
    assert insert(readme, flow_tables.tables(page), "benchmarks.flows") == readme
    tried = [record["optimizer"] for record in page["records"]]
    assert tried == list(OPTIMIZERS)
    for record in page["records"]:
        assert "later" in record or record["result"].startswith("refused"), record


@pytest.mark.parametrize("order", [1.3, 1.7])
def test_mittag_leffler_is_its_series(order):
    s = np.linspace(0.0, 4.0, 9)
    z = -(s.astype(np.longdouble) ** np.longdouble(order))
    series = sum(z**k / np.longdouble(math.gamma(order * k + 1.0)) for k in range(60))
    np.testing.assert_allclose(mittag_leffler(order, s), series.astype(float), rtol=0, atol=1e-12)


@pytest.mark.slow
def test_past_gradients_lead_the_optimizers_own_steps_near_the_run():
    marks, start = np.arange(0, 1001, 50), jnp.ones(1)
    run = ide.run_discrete(optax.adam(0.01), ide.Quadratic(), start, 1000, ts=marks)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = held(optax.adam(0.01), jax.grad(ide.Quadratic()), start, marks, 1e-4, 1e-6)
    assert np.max(np.abs(found.path - run.theta)) < 1e-5
    assert found.gradients < 200


def test_the_page_of_first_calls_is_made_of_its_record():
    page = json.loads((ROOT / "benchmarks" / "results" / "first.json").read_text())
    found = page["records"]
    assert {r["result"] for r in found} == {"successful"}
    assert len({r["entry"] for r in found}) >= 12
    assert all(r["maps"] >= 0 < r["cpu"] and r["second"] < r["wall"] for r in found)
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    assert insert(readme, first.tables(page), "benchmarks.first") == readme
