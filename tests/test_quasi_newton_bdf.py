"""The backward differentiation formula: right, counted, and few gradients where they are dear."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references as ref
from helpers import Counted

import idemodels as ide


def solve(model, objective, theta0, ts, rtol, **options):
    method = ide.Markov(ide.QuasiNewtonBDF(), rtol=rtol, atol=rtol)
    return ide.solve(model, objective, theta0, ts, method=method, **options)


@pytest.mark.parametrize(
    ("model", "rule", "steps"),
    [
        (ide.Adam(0.1), ref.adam(0.1, 0.9, 0.999), 60.0),
        pytest.param(ide.RMSProp(0.1, 0.99), ref.rmsprop(0.1, 0.99), 30.0, marks=pytest.mark.slow),
        pytest.param(ide.AdaGrad(0.1), ref.adagrad(0.1), 300.0, marks=pytest.mark.slow),
    ],
    ids=["adam", "rmsprop", "adagrad"],
)
def test_a_path_agrees_with_an_independent_solution(model, rule, steps):
    ts = np.linspace(0.0, steps, 31)
    truth = ref.solve(rule, ref.quadratic(), ts)
    errors = []
    for rtol in (1e-5, 1e-7):
        path = solve(model, ide.Quadratic(), jnp.ones(1), ts, rtol)
        errors.append(np.abs(path.theta - truth).max())
    assert errors[0] <= 1e-2
    assert errors[1] <= min(1e-3, 0.3 * errors[0])
    np.testing.assert_allclose(
        np.asarray(next(iter(path.moments.values()))[-1]),
        path.state_at(-1).memory[next(iter(path.moments))][0],
        rtol=1e-12,
    )


def test_a_memory_of_the_gradient_is_in_the_formula_whoever_wrote_it():
    def direction(s, theta, g, moments):
        return moments["m"] / (jnp.sqrt(moments["v"]) + 1e-8)

    memories = {
        "m": ide.Memory(ide.Exponential(-np.log(0.9)), lambda g: g, debias=True),
        "v": ide.Memory(ide.Exponential(-np.log(0.999)), lambda g: g**2, debias=True),
    }
    mine, theirs = ide.MemoryModel(memories, direction, 0.1), ide.Adam(0.1, rate="matched")
    paths = [solve(m, ide.Quadratic(), jnp.ones(1), [0.0, 40.0], 1e-6) for m in (mine, theirs)]
    assert paths[0].stats["num_steps"] == paths[1].stats["num_steps"]
    np.testing.assert_allclose(paths[0].theta, paths[1].theta, rtol=1e-9)


def test_gradients_are_counted_as_they_are_called():
    calls = []
    path = solve(ide.Adam(0.1), Counted(calls), jnp.ones(1), [0.0, 60.0], 1e-4)
    jax.effects_barrier()
    assert path.stats["num_rejected"] > 0
    assert path.stats["num_gradients"] == len(calls)


@pytest.mark.slow
def test_a_network_costs_fewer_gradients_than_an_explicit_method():
    digits = ide.DigitsMLP()
    ts = np.linspace(0.0, 2000.0, 21)
    run = lambda method: ide.solve(ide.Adam(1e-3), digits, digits.theta0, ts, method=method)
    flat = lambda path: np.concatenate(
        [np.asarray(x).reshape(ts.size, -1) for x in jax.tree.leaves(path.theta)], axis=1
    )
    truth = flat(run(ide.Markov(dfx.Dopri8(), rtol=1e-8, atol=1e-10)))
    span = np.abs(truth - truth[0]).max()
    path = run(ide.Markov(ide.QuasiNewtonBDF(), rtol=5e-6, atol=5e-6))
    explicit = run(ide.Markov(ide.ExponentialMultistep(3), rtol=1e-3, atol=3e-5))
    assert np.abs(flat(path) - truth).max() <= 1e-3 * span
    assert np.abs(flat(explicit) - truth).max() <= 1e-3 * span
    assert path.stats["num_gradients"] <= 400
    assert explicit.stats["num_gradients"] <= 520


def test_lanes_equal_single_runs():
    def last(rate):
        return solve(ide.Adam(rate), ide.Quadratic(), jnp.ones(2), [0.0, 40.0], 1e-5).theta[-1]

    rates = jnp.asarray([0.02, 0.1])
    both = jax.jit(jax.vmap(last))(rates)
    # steps are chosen by errors, so that rounding is magnified by 1/rtol and more
    np.testing.assert_allclose(both, [jax.jit(last)(rate) for rate in rates], rtol=1e-8)


def test_a_jump_starts_anew():
    schedule = ide.Schedule(lambda s: jnp.where(s < 10.0, 0.1, 0.02))
    equation = ide.Equation(ide.Adam(schedule), ide.Quadratic())

    def run(solver, rtol):
        inner = dfx.PIDController(rtol=rtol, atol=rtol)
        return dfx.diffeqsolve(
            equation.term(),
            solver,
            0.0,
            30.0,
            0.1,
            equation.init(jnp.ones(1)),
            stepsize_controller=dfx.ClipStepSizeController(inner, jump_ts=jnp.asarray([10.0])),
        ).ys.theta

    truth = run(dfx.Dopri8(), 1e-11)
    found = run(ide.QuasiNewtonBDF(rtol=1e-6, atol=1e-6), 1e-6)
    np.testing.assert_allclose(found, truth, atol=1e-3)


@pytest.mark.parametrize("adjoint", [None, dfx.ForwardMode()], ids=["reverse", "forward"])
def test_its_derivative_is_that_of_the_formula(adjoint):
    """Of theta0 and the learning rate, against a difference of paths by SciPy."""
    method, ts = ide.Markov(ide.QuasiNewtonBDF(), rtol=1e-6, atol=1e-8), np.array([0.0, 40.0])

    def last(x):
        given = ide.Adam(x[1]), ide.Quadratic(), x[0], ts
        return ide.solve(*given, method=method, adjoint=adjoint).theta[-1]

    def right(theta0, rate):
        return ref.solve(ref.adam(rate, 0.9, 0.999), ref.quadratic(theta0=theta0), ts)[-1, 0]

    mode = jax.jacrev if adjoint is None else jax.jacfwd
    found = jax.jit(mode(last))(jnp.array([1.0, 0.1]))
    h = 1e-4
    by_start = (right(1.0 + h, 0.1) - right(1.0 - h, 0.1)) / (2 * h)
    by_rate = (right(1.0, 0.1 + h) - right(1.0, 0.1 - h)) / (2 * h)
    np.testing.assert_allclose(found, [by_start, by_rate], rtol=2e-3)


@pytest.mark.parametrize("pairs", [0, -1, True])
def test_a_number_of_pairs_that_is_none_is_refused(pairs):
    with pytest.raises(ValueError, match="Argument `pairs` must be a positive integer"):
        ide.QuasiNewtonBDF(pairs)


def test_an_equation_of_second_order_is_refused():
    with pytest.raises(ValueError, match=r"`solver` .* SecondOrderAdam, but is QuasiNewtonBDF"):
        solve(ide.SecondOrderAdam(0.1), ide.Quadratic(), 1.0, [0.0, 1.0], 1e-4)
