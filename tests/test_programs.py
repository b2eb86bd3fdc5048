"""How programs are traced and compiled."""

import subprocess
import sys

import diffrax as dfx
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import idemodels as ide
from idemodels import _parameters, _programs
from idemodels._method import unchecked
from idemodels._programs import program, traced_once

MAPS = """
import jax, numpy as np, idemodels as ide
jax.config.update("jax_enable_x64", True)
count = lambda: sum(1 for _ in open("/proc/self/maps"))
jax.numpy.zeros(3).sum().block_until_ready()
before = count()
solve = lambda rate: ide.solve(ide.{model}(rate), ide.Quadratic(), 1.0, np.arange(101.0)).loss[-1]
jax.block_until_ready({call}(0.1))
print(count() - before)
"""


@program
def squared(x, y=1.0):
    return y * x**2


def test_a_program_is_the_same_whatever_is_around_it():
    assert squared(3.0) == 9.0
    assert squared(3.0, y=2.0) == 18.0
    assert jax.jit(squared)(3.0) == 9.0
    assert jax.grad(squared)(3.0) == 6.0
    assert jax.jit(jax.grad(squared))(3.0) == 6.0
    assert jax.hessian(squared)(3.0) == 2.0
    np.testing.assert_array_equal(jax.vmap(squared)(jnp.arange(3.0)), [0.0, 1.0, 4.0])
    assert program(squared)(3.0) == 9.0
    with jax.disable_jit():
        assert squared(3.0) == 9.0


def test_a_program_may_close_over_what_is_traced():
    """Its arguments do not tell that it is."""

    def inside(a):
        return program(lambda x: a * x)(2.0)

    assert jax.grad(inside)(3.0) == 2.0
    assert jax.jit(inside)(3.0) == 6.0
    assert jax.jit(lambda: squared(3.0))() == 9.0


@program
def decaying(rate, kind, adjoint):
    del adjoint
    return {"end": kind(rate), "steps": jnp.asarray(3), "bounded": rate > 0}


def test_a_program_for_reverse_mode_is_the_same_in_both_of_its_parts():
    minus = lambda x: jnp.exp(-x)
    end = lambda rate, adjoint=None: decaying(rate, minus, adjoint)["end"]
    for adjoint in (None, "forward mode too"):
        slope = jax.grad(lambda rate, adjoint=adjoint: end(rate, adjoint))
        for derivative in (slope, jax.jit(slope)):
            np.testing.assert_allclose(derivative(0.5), -np.exp(-0.5), rtol=1e-6)
        np.testing.assert_allclose(jax.vmap(slope)(jnp.ones(2)), -np.exp(-1.0), rtol=1e-6)
    made, _ = jax.vjp(lambda rate: decaying(rate, minus, None), 0.5)
    assert int(made["steps"]) == 3
    assert bool(made["bounded"])
    known = lambda a: jax.grad(lambda x: decaying(x, lambda x: a * x**2, None)["end"])(3.0)
    assert jax.grad(known)(2.0) == 6.0


def test_a_program_forgets_what_it_compiled_where_that_is_much(monkeypatch, caplog):
    monkeypatch.setattr(_programs, "_KEPT", 2)
    times = program(lambda x, k: k * x)

    def compiled(k):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level("WARNING"):
            assert times(jnp.ones(3), k)[0] == k
        return any("Finished XLA compilation" in r.getMessage() for r in caplog.records)

    assert [compiled(k) for k in (2, 3, 2, 3)] == [True, True, False, False]
    assert [compiled(k) for k in (4, 2)] == [True, True]


@pytest.mark.parametrize("size", [10, 100_000])
def test_small_and_large_arrays_have_the_same_program(size):
    x = jnp.linspace(0.0, 1.0, size)
    np.testing.assert_allclose(squared(x), np.square(x), rtol=1e-15)


def test_a_method_is_traced_once_for_the_same_shapes():
    traced = []

    class Counting(eqx.Module):
        @traced_once
        def step(self, x, jump):
            traced.append(x)
            return jnp.where(jump, 0.0, x)

    def body(x):
        return Counting().step(Counting().step(x, False), x > 5.0)

    assert jax.jit(body)(jnp.ones(())) == 1.0
    assert jax.jit(jax.grad(body))(jnp.ones(())) == 1.0
    assert len(traced) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the system has no list of maps")
@pytest.mark.parametrize("model", ["Adam", "RMSProp"])
@pytest.mark.parametrize(("call", "most"), [("solve", 400), ("jax.grad(solve)", 900)])
def test_a_solve_keeps_a_few_hundred_memory_maps(model, call, most):
    """Of 65,530: a process that solves many different equations lives."""
    code = MAPS.replace("{model}", model).replace("{call}", call)
    kept = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert kept < most


TS, QUADRATIC = np.arange(11.0), ide.Quadratic()
MODELS = {
    "Adam": lambda rate: ide.Adam(rate),
    "RMSProp": lambda rate: ide.RMSProp(rate),
    "causal": lambda rate: ide.RMSProp(rate, reading="causal"),
    "AdaGrad": lambda rate: ide.AdaGrad(rate),
    "inertia": lambda rate: ide.SecondOrderAdam(rate),
    "flow": lambda rate: ide.InterpolatingFlow(optax.sgd(0.1), order=2),
}
METHODS = {
    "tight": ide.Markov(rtol=1e-8),
    "Tsit5": ide.Markov(dfx.Tsit5()),
    "Euler": ide.Markov(dfx.Euler()),
    "History": ide.History(),
    "Kvaerno5": ide.Markov(dfx.Kvaerno5()),
    "event": ide.Markov(event=dfx.Event(lambda s, y, args, **_: y.theta < 0.5)),
}


def traced(model, method=None, objective=QUADRATIC, **options):
    """The program of a loss, as it goes to the compiler."""
    loss = lambda rate: ide.solve(model(rate), objective, 1.0, TS, method=method, **options).loss
    return jax.jit(loss).lower(0.1).as_text()


@pytest.mark.parametrize("name", MODELS)
def test_no_program_of_a_model_calls_the_host(name):
    assert "callback" not in traced(MODELS[name], throw=False)


@pytest.mark.parametrize("name", METHODS)
def test_no_program_of_a_method_calls_the_host(name):
    assert "callback" not in traced(ide.Adam, METHODS[name], throw=False)


def test_what_raises_inside_a_trace_still_does():
    """The result where `throw` is left, and a check of the user's own."""
    assert "callback" in traced(ide.Adam)

    def checked(x):
        return 0.5 * eqx.error_if(x, x > 10.0, "too far") ** 2

    assert "callback" in traced(ide.Adam, objective=checked, throw=False)
    with pytest.raises(Exception, match="too far"):
        ide.solve(ide.Adam(0.1), checked, 20.0, TS)


def row(x, calls):
    """The values that calls in a row make."""
    values = [x]
    for _ in range(calls):
        values.append(eqxi.prevbefore(values[-1]))
    return values


@pytest.mark.parametrize("calls", [3, 100])
def test_calls_in_a_row_are_one_loop(calls):
    last = lambda x: row(x, calls)[-1]
    x = jnp.asarray(2.0)
    jaxpr = unchecked._rewritten(jax.make_jaxpr(last)(x).jaxpr)
    assert len(jaxpr.eqns) <= 3
    run = lambda x: jax.core.eval_jaxpr(jaxpr, (), x)[0]
    assert run(x) == last(x) < x
    assert jax.grad(run)(x) == jax.jvp(run, (x,), (x / 2,))[1] == 1.0
    np.testing.assert_array_equal(jax.vmap(run)(jnp.arange(3.0)), jax.vmap(last)(jnp.arange(3.0)))


def test_a_value_on_the_way_that_is_read_stays():
    both = lambda x: row(x, 100)[50::50]
    x = jnp.asarray(2.0)
    jaxpr = unchecked._rewritten(jax.make_jaxpr(both)(x).jaxpr)
    assert len(jaxpr.eqns) <= 3
    assert jax.core.eval_jaxpr(jaxpr, (), x) == both(x)


def test_a_solve_has_no_calls_in_a_row():
    assert traced(ide.Adam, throw=False).count("next_after") < 10


def test_a_second_call_traces_the_objective_no_more():
    traced = []

    def loss(theta):
        traced.append(theta)
        return theta**2

    def run(rate, theta0=1.0):
        ide.solve(ide.Adam(rate), loss, theta0, TS, method=METHODS["Euler"])
        return len(traced)

    assert run(0.1) == run(0.2) < run(0.1, jnp.ones(1, "float32")[0])


def test_an_objective_that_was_refused_is_refused_again():
    for _ in "ab":
        with pytest.raises(ValueError, match="must return a real scalar"):
            ide.solve(ide.Adam(0.1), lambda theta: theta * jnp.ones(2), 1.0, TS)


def test_checks_are_remembered_of_the_last_objectives_alone():
    for k in range(70):
        _parameters.check_objective(lambda theta, k=k: theta**2 + k, jnp.ones(()), None)
    assert len(_parameters._FINE) == 64


KEPT = """
import collections, sys
import jax, numpy as np, optax, idemodels as ide
from jax import monitoring
found = collections.Counter()
monitoring.register_event_listener(lambda event, **_: found.update([event]))
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
q, ts = ide.Quadratic(), np.arange(11.0)
for model in (ide.Adam(0.1), ide.RMSProp(0.1), ide.AdaGrad(0.1), ide.SecondOrderAdam(0.1)):
    path = ide.solve(model, q, 1.0, ts)
flow = ide.InterpolatingFlow(optax.sgd(0.1), order=2)
ide.solve(flow, q, 1.0, ts)
ide.compare(ide.solve(ide.Adam(0.1), q, 1.0, ts), ide.run_discrete(ide.Adam(0.1), q, 1.0, 10))
ide.sensitivity(ide.Adam(0.1), q, 1.0, 10, wrt=("learning_rate",))
ide.sweep(ide.Adam(0.1), q, 1.0, 10, over={"learning_rate": [0.1, 0.2]})
last = lambda rate: ide.solve(ide.Adam(rate), q, 1.0, ts, throw=False).loss[-1]
jax.jit(jax.grad(last))(0.1)
print(found["/jax/compilation_cache/cache_misses"], found["/jax/compilation_cache/cache_hits"])
"""


@pytest.mark.slow
def test_a_second_process_compiles_nothing(tmp_path):
    """With JAX's persistent cache, which keeps no program that calls the host."""
    code = [sys.executable, "-c", KEPT, str(tmp_path)]
    first, second = (subprocess.run(code, capture_output=True, check=True).stdout for _ in "ab")
    missed, _ = map(int, first.split())
    again, found = map(int, second.split())
    assert missed > 20
    assert (again, found >= missed) == (0, True)
