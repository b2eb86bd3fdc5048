"""A leg that pauses and goes on makes the path of one that does not."""

import os

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import idemodels as ide
from idemodels._equation import Equation, cast
from idemodels._method.leg import begin
from idemodels._solve import Held, prepare

TS = jnp.linspace(0.0, 300.0, 11)
METHODS = {
    "default": ide.Markov(rtol=1e-7),
    "at rest": ide.Markov(rtol=1e-5, steady_tol=1e-3),
    "Runge-Kutta": ide.Markov(dfx.Tsit5(), rtol=1e-5),
    "quasi-Newton": ide.Markov(ide.QuasiNewtonBDF(), rtol=1e-4),
    "fixed steps": ide.Markov(dfx.Euler()),
    "out of steps": ide.Markov(dfx.Tsit5(), rtol=1e-9, max_steps=91),
}
LONG = ("default", "at rest", "quasi-Newton")

# One program in rounds and one for the whole round alike as XLA compiles them for a user; as the
# tests have it compiled, their fused arithmetic differs, and step control magnifies rounding by
# 1/rtol.
FASTER = "xla_cpu_use_fusion_emitters"
AS_USUAL = {FASTER: True} if FASTER in os.environ.get("XLA_FLAGS", "") else {}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in METHODS],
)
def test_rounds_make_the_same_path_and_counts(name):
    method, model, objective = METHODS[name], ide.Adam(0.05), ide.Quadratic()
    equation = Equation(cast(model, TS.dtype), Held(objective, None))
    problem = prepare(equation, jnp.asarray(1.0), None, TS, jnp.ones((), bool), None, jnp.zeros(0))
    front = begin(problem)
    leg, front = method.main_leg(problem, front, method.implicit_solver(problem))
    carry = leg.begin(problem, front)

    @eqx.filter_jit(compiler_options=AS_USUAL)
    def advance(front, carry):
        leg, _ = method.main_leg(problem, front, method.implicit_solver(problem))
        return leg.advance(problem, front, carry, 13)

    @eqx.filter_jit(compiler_options=AS_USUAL)
    def at_once():
        return ide.solve(model, objective, jnp.asarray(1.0), TS, method=method, throw=False)

    rounds = 0
    while bool(front.running) and float(front.t) < float(TS[-1]):
        front, carry = advance(front, carry)
        rounds += 1
    whole = at_once()
    assert rounds > 2
    assert bool(front.result == whole.result)
    for key in ("num_steps", "num_rejected", "num_gradients", "steady_at"):
        assert front.stats[key] == whole.stats[key], key
    kept = front.kept["state"].theta
    there = np.isfinite(whole.theta) & (TS <= front.t)
    assert there.sum() > 1
    np.testing.assert_allclose(kept[there], whole.theta[there], rtol=1e-12)


def test_lanes_that_end_at_different_rounds_equal_single_runs():
    method, objective = ide.Markov(rtol=1e-6), ide.Quadratic()
    rates = jnp.asarray([0.001, 0.01, 0.05])

    def problem_of(rate):
        equation = Equation(cast(ide.Adam(rate), TS.dtype), Held(objective, None))
        return prepare(equation, jnp.asarray(1.0), None, TS, jnp.ones((), bool), None, jnp.zeros(0))

    def start(rate):
        problem = problem_of(rate)
        front = begin(problem)
        leg, front = method.main_leg(problem, front, method.implicit_solver(problem))
        return front, leg.begin(problem, front)

    @jax.jit
    @jax.vmap
    def advance(rate, front, carry):
        problem = problem_of(rate)
        leg, _ = method.main_leg(problem, front, method.implicit_solver(problem))
        return leg.advance(problem, front, carry, 8)

    front, carry = jax.jit(jax.vmap(start))(rates)
    while bool(jnp.any(front.running & (front.t < TS[-1]))):
        front, carry = advance(rates, front, carry)
    for i, rate in enumerate(rates):
        alone = ide.solve(ide.Adam(rate), objective, jnp.asarray(1.0), TS, method=method)
        np.testing.assert_allclose(front.kept["state"].theta[i], alone.theta, rtol=1e-10)
        assert front.stats["num_steps"][i] == alone.stats["num_steps"]
