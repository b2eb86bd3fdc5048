"""Optimizers of one's own: three in ten lines each, the discrete step, every method."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg
from helpers import OBJECTIVES

import idemodels as ide

CURVATURE, MINIMUM = np.array([1.0, 3.0, 10.0]), np.array([1.0, -0.5, 0.3])
OBJECTIVE, THETA0 = ide.Quadratic(CURVATURE, MINIMUM), jnp.array([0.2, 1.5, -1.0])
IDENTITY, SQUARE = lambda g: g, lambda g: g**2


def matched(b, feature):
    return ide.Memory(ide.Exponential(-np.log(b)), feature, debias=True)


def adam_direction(s, theta, g, moments):
    return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + 1e-8), moments["m"], moments["v"])


def adam(learning_rate, **options):
    memories = {"m": matched(0.9, IDENTITY), "v": matched(0.999, SQUARE)}
    return ide.MemoryModel(memories, adam_direction, learning_rate, **options)


def adamw(learning_rate):
    return adam(learning_rate, weight_decay=0.1)


def clipped_adam(learning_rate):
    def clip(g):
        norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(g)))
        return jax.tree.map(lambda g: g / jnp.maximum(norm, 1.0), g)

    return adam(learning_rate, transform=clip)


def centred_rmsprop(learning_rate):
    def direction(s, theta, g, moments):
        scale = lambda g, m, v: g / jnp.sqrt(v - m**2 + 1e-3)
        return jax.tree.map(scale, g, moments["m"], moments["v"])

    kernel = ide.Exponential(-np.log(0.9))
    memories = {"m": ide.Memory(kernel, IDENTITY), "v": ide.Memory(kernel, SQUARE)}
    return ide.MemoryModel(memories, direction, learning_rate)


TWINS = {
    "adam": (adam, lambda rate: optax.adam(rate)),
    "adamw": (adamw, lambda rate: optax.adamw(rate, weight_decay=0.1)),
    "clipped": (
        clipped_adam,
        lambda rate: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
    ),
    "centred": (
        centred_rmsprop,
        lambda rate: optax.rmsprop(rate, 0.9, eps=1e-3, centered=True, eps_in_sqrt=True),
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_the_frozen_step_of_a_known_optimizer_is_optax(name):
    make, known = TWINS[name]
    own = ide.run_discrete(make(0.1), OBJECTIVE, THETA0, 60)
    run = ide.run_discrete(known(0.1), OBJECTIVE, THETA0, 60)
    np.testing.assert_allclose(own.theta, run.theta, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "name", [n if n == "adam" else pytest.param(n, marks=pytest.mark.slow) for n in TWINS]
)
def test_the_equation_is_near_its_discrete_step(name):
    make, _ = TWINS[name]
    ts = np.arange(61.0)
    errors = []
    for rate in (0.04, 0.02):
        path = ide.solve(make(rate), OBJECTIVE, THETA0, ts, method=ide.Markov(rtol=1e-6))
        run = ide.run_discrete(make(rate), OBJECTIVE, THETA0, 60)
        errors.append(float(ide.compare(path, run).max_error))
    # of first order in the learning rate
    assert errors[1] < 0.7 * errors[0] < 0.1


def sum_of_three():
    return ide.SumOfExponentials([0.3, 0.02, 0.001], [1.0, 0.1, 0.0])


KERNELS = {
    "exponential": ide.Exponential(0.3),
    "constant": ide.Constant(),
    "second order": ide.SecondOrder(0.9),
    "critical": ide.SecondOrder(0.5),
    "sum": sum_of_three(),
    "power law": ide.fit_exponentials(ide.PowerLaw(0.5), 60.0, 1e-3),
}


@pytest.mark.parametrize("name", KERNELS)
def test_the_frozen_step_is_a_recursion(name):
    """By hand: states by a matrix exponential, the direction at the step's end."""
    kernel, rate, steps = KERNELS[name], 0.05, 40

    def direction(s, theta, g, moments):
        return (g + moments["m"]) / (jnp.sqrt(moments["v"]) + 1e-2) * s / (1.0 + s)

    memories = {
        "m": ide.Memory(ide.Exponential(0.5), IDENTITY),
        "v": ide.Memory(kernel, SQUARE, debias=True),
    }
    model = ide.MemoryModel(memories, direction, rate, l2=0.2, weight_decay=0.1)
    run = ide.run_discrete(model, OBJECTIVE, THETA0, steps)

    A, B, C = (np.asarray(x) for x in kernel.state_space())
    n = B.size
    whole = scipy.linalg.expm(np.block([[A, B[:, None]], [np.zeros((1, n + 1))]]))
    E, W = whole[:n, :n], whole[:n, n]
    theta, m, z, one = np.asarray(THETA0), np.zeros(3), np.zeros((n, 3)), np.zeros(n)
    for k in range(steps):
        g = CURVATURE * (theta - MINIMUM) + 0.1 * theta
        m = np.exp(-0.5) * m + (1.0 - np.exp(-0.5)) * g
        z, one = E @ z + np.outer(W, g * g), E @ one + W
        v = (C @ z) / (C @ one)  # a feature of one weighs as much as the kernel's integral
        s = k + 1.0
        update = (g + m) / (np.sqrt(v) + 1e-2) * s / (1.0 + s) + 0.1 * theta
        theta = theta - rate * update
        np.testing.assert_allclose(run.theta[k + 1], theta, rtol=0, atol=1e-11)
        np.testing.assert_allclose(run.moments["v"][k + 1], C @ z, rtol=1e-9)


def test_its_state_is_taken_over_by_the_equation():
    model, steps = adam(1e-3), 200
    tx, theta = model.optax(), THETA0
    state = tx.init(theta)
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(steps):
            updates, state = tx.update(jax.grad(OBJECTIVE)(theta), state, theta)
            theta = optax.apply_updates(theta, updates)
    start = ide.state_from_optax(model, state)
    assert int(start.s) == steps
    ts = np.linspace(steps, steps + 100.0, 11)
    path = ide.solve(model, OBJECTIVE, theta, ts, state0=start)
    run = ide.run_discrete(model, OBJECTIVE, THETA0, steps + 100)
    assert jnp.max(jnp.abs(path.theta - run.theta[steps::10])) < 2e-4
    assert jnp.max(jnp.abs(path.theta[-1] - theta)) > 0.05


METHODS = {
    "Markov": (ide.Markov(rtol=1e-9, atol=1e-11), 1e-8),
    "History": (ide.History(32), 3e-4),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", ["quadratic", pytest.param("rosenbrock", marks=pytest.mark.slow)])
def test_adam_is_adam_under_every_method(method, case):
    objective, theta0 = OBJECTIVES[case].objective, OBJECTIVES[case].theta0
    ts = np.linspace(0.0, 20.0, 11)
    own = ide.solve(adam(0.02), objective, theta0, ts, method=METHODS[method][0])
    known = ide.Adam(0.02, rate="matched")
    path = ide.solve(known, objective, theta0, ts, method=METHODS["Markov"][0])
    np.testing.assert_allclose(own.theta, path.theta, rtol=0, atol=METHODS[method][1])


def power_law(kernel):
    memories = {"m": matched(0.9, IDENTITY), "v": ide.Memory(kernel, SQUARE, debias=True)}
    return ide.MemoryModel(memories, adam_direction, 0.05)


@pytest.mark.slow
def test_a_power_law_goes_through_markov_as_a_sum_of_exponentials():
    ts = np.arange(0.0, 41.0)
    by_history = ide.solve(power_law(ide.PowerLaw(0.5)), ide.Quadratic(), 1.0, ts)
    finer = ide.solve(
        power_law(ide.PowerLaw(0.5)), ide.Quadratic(), 1.0, ts, method=ide.History(64)
    )
    kernel = ide.fit_exponentials(ide.PowerLaw(0.5), 40.0, 1e-5, shortest=1e-2)
    assert kernel.max_error <= 1e-5
    method = ide.Markov(rtol=1e-8, atol=1e-10)
    by_markov = ide.solve(power_law(kernel), ide.Quadratic(), 1.0, ts, method=method)
    # to the fit's tolerance
    way = float(jnp.max(jnp.abs(finer.theta - 1.0)))
    np.testing.assert_allclose(by_markov.theta, finer.theta, rtol=0, atol=1e-5 * way)
    assert jnp.max(jnp.abs(by_history.theta - finer.theta)) < 1e-2


@pytest.mark.slow
def test_kernels_are_trained():
    def final(rate, weights):
        memories = {
            "m": ide.Memory(ide.Exponential(rate), IDENTITY, debias=True),
            "v": ide.Memory(ide.SumOfExponentials(weights, [1.0, 0.1]), SQUARE, debias=True),
        }
        model = ide.MemoryModel(memories, adam_direction, 0.1)
        method = ide.Markov(rtol=1e-9, atol=1e-11)
        ts = np.array([0.0, 10.0])
        return ide.solve(model, ide.Quadratic(), 1.0, ts, method=method).theta[-1]

    weights, h = jnp.array([0.5, 0.1]), 1e-5
    found = jax.grad(final, (0, 1))(0.2, weights)
    by_rate = (final(0.2 + h, weights) - final(0.2 - h, weights)) / (2.0 * h)
    np.testing.assert_allclose(found[0], by_rate, rtol=1e-6)
    unit = jnp.eye(2) * h
    by_weight = [(final(0.2, weights + d) - final(0.2, weights - d)) / (2.0 * h) for d in unit]
    np.testing.assert_allclose(found[1], by_weight, rtol=1e-5)


@pytest.mark.slow
def test_another_fit_does_not_recompile():
    traces = []

    def objective(theta):
        traces.append(None)
        return (theta - 4.0) ** 2

    for a in (0.5, 0.501, 0.502):
        # as many terms each time; the measured error differs
        kernel = ide.fit_exponentials(ide.PowerLaw(a), 10.0, 1e-2)
        kernel = ide.SumOfExponentials(kernel.weights[:8], kernel.rates[:8], kernel.max_error)
        ide.solve(power_law(kernel), objective, 1.0, np.arange(3.0))
        first = len(traces) if a == 0.5 else first
    assert len(traces) - first <= 4  # the check of what it returns, for each call


def test_a_kernel_that_begins_later_is_debiased_once_it_has_begun():
    delayed = ide.FunctionKernel(lambda s: jnp.where(s > 3.0, jnp.exp(-s), 0.0))
    direction = lambda s, theta, g, moments: moments["m"]
    memory = ide.Memory(delayed, IDENTITY, debias=True)
    model = ide.MemoryModel({"m": memory}, direction, 0.1)
    path = ide.solve(model, ide.Quadratic(), 1.0, np.arange(7.0))
    # until then the mean is the gradient itself
    np.testing.assert_allclose(path.theta[2], 4.0 - 3.0 * np.exp(-0.4), rtol=0, atol=1e-2)
    assert np.all(np.isfinite(path.theta))


def test_no_memory_is_gradient_descent():
    model = ide.MemoryModel({}, lambda s, theta, g, moments: g, 0.1)
    ts = np.linspace(0.0, 10.0, 6)
    path = ide.solve(model, ide.Quadratic(), 1.0, ts, method=ide.Markov(rtol=1e-6))
    np.testing.assert_allclose(path.theta, 4.0 - 3.0 * np.exp(-0.2 * ts), rtol=0, atol=1e-5)
    run = ide.run_discrete(model, ide.Quadratic(), 1.0, 10)
    np.testing.assert_allclose(run.theta, 4.0 - 3.0 * 0.8 ** np.arange(11), rtol=1e-12)
