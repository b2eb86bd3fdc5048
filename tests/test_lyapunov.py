"""Energies that fall, one that stays, and those of which nothing is proved."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import OBJECTIVES

import idemodels as ide
from idemodels import analysis
from idemodels._analysis.energy import bracket_of

# One leg, soon compiled.
TIGHT = ide.Markov(dfx.Tsit5(), rtol=1e-10, atol=1e-13)
BOWL = ide.Quadratic()


def flow(model, objective=BOWL, theta0=1.0, steps=100.0, rows=101, method=TIGHT):
    return ide.solve(model, objective, theta0, np.linspace(0.0, steps, rows), method=method)


@pytest.fixture(scope="module")
def adam():
    model = ide.Adam(0.1, b2=0.99)
    return model, flow(model, rows=601)


def test_the_energy_of_adam_is_that_by_hand(adam):
    model, path = adam
    found = analysis.lyapunov(model, path, BOWL)
    s, m, v = (np.asarray(x)[1:] for x in (path.ts, path.moments["m"], path.moments["v"]))
    c1, c2 = 1 - 0.9**s, 1 - 0.99**s
    energy = 0.1 * c1 / (2 * 0.1) * (m / c1) ** 2 / (np.sqrt(v / c2) + 1e-8)
    np.testing.assert_allclose(found.value[1:], np.asarray(path.loss)[1:] + energy, rtol=1e-12)
    assert found.value[0] == path.loss[0]


def test_the_derivative_is_that_of_the_value_and_below_its_bound(adam):
    found = analysis.lyapunov(*adam, BOWL)
    slope = np.gradient(found.value, found.ts, edge_order=2)
    # central differences at a distance of 1/6 step
    assert np.max(np.abs(slope - found.derivative)[3:]) < 1e-2 * np.max(np.abs(slope))
    assert np.all(found.derivative <= found.bound + 1e-12)
    assert found.applies
    assert found.falls
    assert found.must_fall.all()
    assert found.rise < 1e-10
    assert "Proved" in found.statement


def test_without_an_objective_the_losses_are_taken(adam):
    model, path = adam
    found, whole = analysis.lyapunov(model, path), analysis.lyapunov(model, path, BOWL)
    np.testing.assert_allclose(found.value, whole.value, rtol=1e-14)
    assert found.derivative is found.gradient is None
    assert np.isnan(found.limit)


def test_the_energy_without_bias_correction_rises_and_is_not_taken(adam):
    model, path = adam
    m, v = np.asarray(path.moments["m"]), np.asarray(path.moments["v"])
    uncorrected = np.asarray(path.loss) + 0.5 * m**2 / (np.sqrt(v) + 1e-8)
    rise = np.max(uncorrected - np.minimum.accumulate(uncorrected))
    assert rise > 1e-4  # a solver at 1e-10 does not make that
    found = analysis.lyapunov(model, path, BOWL)
    assert np.max(np.abs(found.value - uncorrected)) > 1e-2
    assert any("bias correction" in note for note in found.notes)


@pytest.mark.parametrize("r2", [0.01, 0.1, 0.4])
@pytest.mark.parametrize("rate", ["paper", "matched"])
def test_the_bracket_is_positive_where_the_condition_holds(r2, rate):
    model = ide.Adam(0.1, b1=0.9, b2=1 - r2, rate=rate)
    if rate == "matched":  # r2 = 4 r1 exactly at the largest
        model = ide.Adam(0.1, b1=np.exp(-0.1), b2=np.exp(-r2), rate=rate)
    s = jnp.concatenate([jnp.zeros(1), jnp.geomspace(1e-6, 1e4, 300)])
    bracket = np.asarray(jax.vmap(lambda s: bracket_of(model, s))(s))
    assert np.all(bracket >= -1e-12)
    assert bracket[0] == pytest.approx(bracket[1], rel=1e-4)


def test_outside_the_condition_it_may_rise_and_where_it_must_fall_is_told():
    model = ide.Adam(0.01, b1=0.99, b2=0.5)  # r2 = 50 r1
    found = analysis.lyapunov(model, flow(model, steps=300.0, rows=601), BOWL)
    assert not found.applies
    assert not found.falls
    assert found.rise > 0.5
    assert 150 < found.rise_at < 250
    assert "r2 <= 4 r1 (r2 / r1 = 50)" in found.statement
    assert found.must_fall.any()
    assert not found.must_fall.all()
    assert np.all(found.derivative <= found.bound + 1e-9)
    assert np.all(found.derivative[found.must_fall] <= 1e-12)


LAWS = {
    "adam-b1-0": ide.Adam(0.1, b1=0.0),
    "adam-matched-l2": ide.Adam(0.1, rate="matched", l2=0.3),
    "rmsprop": ide.RMSProp(0.01, 0.9),
    "adagrad": ide.AdaGrad(0.1, lr_decay=0.1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
def test_it_falls_on_the_papers_parabola(name):
    model = LAWS[name]
    found = analysis.lyapunov(model, flow(model, steps=50.0), BOWL)
    assert found.applies
    assert found.rise < 1e-9
    assert np.all(found.derivative <= 1e-9)


PROBLEMS = {n: (case.objective, case.theta0) for n, case in OBJECTIVES.items() if n != "rosenbrock"}
PROBLEMS |= {
    "regression": (ide.LinearRegression(), 0.0),
    "tilted": (ide.TiltedDoubleWell(1.5), -1.5),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "objective"),
    [
        ("adam", "quadratic"),
        ("rmsprop", "double-well"),
        ("adagrad", "quadratic-5"),
        ("adam-b1-0", "log-cosh"),
        ("adam", "logistic"),
        ("adam-matched-l2", "regression"),
        ("rmsprop", "tilted"),
    ],
)
def test_it_falls_on_all_of_the_papers_problems(name, objective):
    problem, theta0 = PROBLEMS[objective]
    method = ide.Markov(rtol=1e-8, atol=1e-11)
    for alpha in (0.1, 0.01):  # here, so that both run one program
        model = LAWS.get(name, ide.Adam(0.1))
        model = eqx.tree_at(lambda m: m.learning_rate, model, np.asarray(alpha))
        path = flow(model, problem, theta0, 200.0, 401, method)
        found = analysis.lyapunov(model, path, problem)
        assert found.applies, alpha
        assert found.rise < 1e-7, alpha


def test_the_invariant_of_causal_adagrad_stays():
    model = ide.AdaGrad(0.1, reading="causal", l2=0.2)
    method = ide.Markov(dfx.Tsit5(), rtol=1e-11, atol=1e-14)
    found = analysis.lyapunov(model, flow(model, steps=200.0, method=method), BOWL)
    assert found.constant
    assert found.applies
    assert np.max(np.abs(found.value - found.value[0])) < 1e-8
    assert np.isnan(found.derivative[0])  # its velocity is infinite
    assert np.max(np.abs(found.derivative[1:])) < 1e-12
    assert not found.must_fall.any()


@pytest.mark.slow
def test_the_limit_set_is_stationary():
    model = ide.AdaGrad(1.0)
    found = analysis.lyapunov(model, flow(model, steps=100.0), BOWL)
    assert found.limit < 1e-6
    np.testing.assert_allclose(found.gradient[0], 6.0)


def test_a_discrete_run_is_told_from_a_solved_path(adam):
    model, path = adam
    run = ide.run_discrete(model, BOWL, 1.0, 600)
    found = analysis.lyapunov(model, run, BOWL)
    assert (found.source, analysis.lyapunov(model, path).source) == ("discrete", "equation")
    assert not found.applies
    assert "iterates of the discrete algorithm" in found.statement
    assert not found.must_fall.any()
    arrays = ide.Trajectory.from_arrays(run.ts, run.theta, run.moments)
    assert "do not say whose" in analysis.lyapunov(model, arrays, BOWL).statement


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(weight_decay=0.1), r"no decoupled weight decay \(weight_decay = 0.1\)"),
        (dict(reading="advanced"), r"the memories are read at s \(v at s \+ 1\)"),
        (dict(learning_rate="rising"), r"the learning rate does not rise \(from 0 to 0.1\)"),
    ],
)
def test_what_the_theorem_assumes_is_told_where_it_fails(adam, options, said):
    if "learning_rate" in options:
        options = dict(learning_rate=ide.Schedule(ramp, slope=1e-3))
    model = ide.Adam(**(dict(learning_rate=0.1, b2=0.99) | options))
    found = analysis.lyapunov(model, adam[1])
    assert not found.applies
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(found.statement)


def ramp(s, slope):
    return slope * s


def as_adam(s, theta, g, moments):
    root = lambda m, v: m / (jnp.sqrt(v) + 1e-8)
    return jax.tree.map(root, moments["m"], moments["v"])


def own(direction=as_adam, kernel=None):
    m = ide.Memory(kernel or ide.Exponential(-np.log(0.9)), lambda g: g, debias=True)
    v = ide.Memory(ide.Exponential(-np.log(0.99)), lambda g: g**2, debias=True)
    return ide.MemoryModel({"m": m, "v": v}, direction, 0.1)


@pytest.mark.slow
def test_a_model_of_ones_own_has_the_energy_of_its_first_moment_and_no_theorem():
    model, adam = own(), ide.Adam(0.1, b2=0.99, rate="matched")
    path = flow(adam, rows=41)
    found = analysis.lyapunov(model, path, BOWL)
    wanted = analysis.lyapunov(adam, path, BOWL)
    np.testing.assert_allclose(found.value, wanted.value, rtol=1e-12)
    np.testing.assert_allclose(found.derivative[1:], wanted.derivative[1:], rtol=1e-8, atol=1e-12)
    assert not found.applies
    assert found.bound is None
    assert found.statement.startswith("No theorem applies to a direction of one's own")
    assert "memory 'm'" in found.statement


@pytest.mark.slow
def test_without_such_a_memory_it_is_the_loss():
    model = own(kernel=ide.SecondOrder(0.9))
    path = flow(ide.Adam(0.1), rows=11)
    found = analysis.lyapunov(model, path, BOWL)
    np.testing.assert_allclose(found.value, path.loss, rtol=1e-14)
    assert found.statement.startswith("No theorem applies to MemoryModel: V is the loss")
    assert found.derivative is None  # the path does not keep the states of that kernel


def test_arguments_are_told_by_name(adam):
    model, path = adam
    arrays = ide.Trajectory.from_arrays(path.ts, path.theta, path.moments)
    with pytest.raises(
        ValueError, match="`objective` must be given for a trajectory without losses"
    ):
        analysis.lyapunov(model, arrays)
    with pytest.raises(ValueError, match="`objective` must be given for a `MemoryModel`"):
        analysis.lyapunov(own(), path)
    with pytest.raises(ValueError, match="`tol` must be positive and finite, but is -1.0."):
        analysis.lyapunov(model, path, tol=-1.0)
