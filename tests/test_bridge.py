"""Between equation and discrete algorithm: one step, an optimizer's state, two halves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import references as ref
from helpers import MODELS, OBJECTIVES

import idemodels as ide

TIGHT = ide.Markov(rtol=1e-12, atol=1e-14)
CURVATURE, MINIMUM = np.array([1.0, 3.0, 10.0]), np.array([1.0, -0.5, 0.3])
OBJECTIVE, THETA0 = ide.Quadratic(CURVATURE, MINIMUM), jnp.array([0.2, 1.5, -1.0])


def frozen_step(model, memory, g):
    """The memories of `model` after one step in which the gradient stays what it is."""
    one = jnp.ones(())
    return {
        name: m.kernel.propagate(memory[name], one, m.of(g)[None])
        for name, m in model.memories().items()
    }


def read(model, memory):
    return {name: m.kernel.read(memory[name]) for name, m in model.memories().items()}


def adam_direction(model, k, moments):
    """Read at s + 1, corrected by 1 - b^(k+1)."""
    m = moments["m"] / (1.0 - model.b1 ** (k + 1))
    v = moments["v"] / (1.0 - model.b2 ** (k + 1))
    return m / (jnp.sqrt(v) + model.eps)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9), (0.99, 0.99)], ids=str)
def test_memories_over_one_frozen_step_are_adam(betas):
    model, tx = ide.Adam(0.1, *betas, rate="matched"), optax.adam(0.1, *betas)
    theta, state = THETA0, tx.init(THETA0)
    memory = ide.Equation(model, OBJECTIVE).init(THETA0).memory
    for k in range(50):
        g = jax.grad(OBJECTIVE)(theta)
        memory = frozen_step(model, memory, g)
        moments = read(model, memory)
        with jax.numpy_dtype_promotion("standard"):  # optax counts in integers
            updates, state = tx.update(g, state)
        # 50 roundings of numbers up to 100, the largest square of a gradient
        np.testing.assert_allclose(moments["m"], state[0].mu, rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(moments["v"], state[0].nu, rtol=1e-13, atol=0)
        update = -0.1 * adam_direction(model, k, moments)
        np.testing.assert_allclose(update, updates, rtol=0, atol=1e-13)
        theta = theta + updates


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.99])
def test_memories_over_one_frozen_step_are_rmsprop(decay):
    model = ide.RMSProp(0.1, decay, rate="matched")
    tx = optax.rmsprop(0.1, decay, eps_in_sqrt=False)
    theta, state = THETA0, tx.init(THETA0)
    memory = ide.Equation(model, OBJECTIVE).init(THETA0).memory
    for _ in range(50):
        g = jax.grad(OBJECTIVE)(theta)
        memory = frozen_step(model, memory, g)
        v = read(model, memory)["v"]
        updates, state = tx.update(g, state)
        np.testing.assert_allclose(v, state[0].nu, rtol=1e-13, atol=0)
        np.testing.assert_allclose(
            -0.1 * g / (jnp.sqrt(v) + model.eps), updates, rtol=0, atol=1e-13
        )
        theta = theta + updates


def trained(model, steps):
    """Parameters and state of a real training loop."""
    tx, theta = model.optax(), THETA0

    @jax.jit
    def step(theta, state):
        updates, state = tx.update(jax.grad(OBJECTIVE)(theta), state, theta)
        return optax.apply_updates(theta, updates), state

    state = tx.init(theta)
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(steps):
            theta, state = step(theta, state)
    return theta, state


def test_equation_goes_on_from_a_real_adam_state():
    model = ide.Adam(1e-3)
    theta, opt_state = trained(model, 1000)
    state = ide.state_from_optax(model, opt_state)
    assert int(state.s) == 1000
    ts = np.linspace(1000.0, 1500.0, 11)
    path = ide.solve(model, OBJECTIVE, theta, ts, method=TIGHT, state0=state)
    loss = ref.quadratic(CURVATURE, MINIMUM, np.asarray(THETA0))
    start = [np.asarray(x) for x in (theta, opt_state[0].mu, opt_state[0].nu)]
    expected = ref.solve_states(ref.adam(1e-3, 0.9, 0.999), loss, ts, start)
    for found, wanted in zip(
        (path.theta, path.moments["m"], path.moments["v"]), expected, strict=True
    ):
        # the solver's tolerance, over some hundred steps
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)
    twin = trained(model, 1500)[0]
    # the model's own error, of the order of the learning rate; without its state it is far larger
    assert jnp.max(jnp.abs(path.theta[-1] - twin)) < 1e-3
    assert jnp.max(jnp.abs(path.theta[-1] - theta)) > 0.1


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (ide.RMSProp(0.01, 0.99), ref.rmsprop(0.01, 0.99)),
        (ide.AdaGrad(0.1), ref.adagrad(0.1)),
    ],
    ids=["rmsprop", "adagrad"],
)
def test_equation_goes_on_from_the_state_of_a_twin(model, rule):
    theta, opt_state = trained(model, 20)
    state = ide.state_from_optax(model, opt_state)
    ts = np.linspace(20.0, 60.0, 5)
    path = ide.solve(model, OBJECTIVE, theta, ts, method=TIGHT, state0=state)
    loss = ref.quadratic(CURVATURE, MINIMUM, np.asarray(THETA0))
    name = next(iter(model.memories()))
    start = np.asarray(theta), np.asarray(state.memory[name][0])
    expected = ref.solve_states(rule, loss, ts, start)
    np.testing.assert_allclose(path.theta, expected[0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(path.moments[name], expected[1], rtol=1e-9)


QUICK = ("adam-matched", "rmsprop-closure")


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS],
)
def test_two_halves_are_the_whole(name):
    case, model = OBJECTIVES["quadratic"], MODELS[name]
    solve = lambda ts, state=None: ide.solve(
        model, case.objective, case.theta0, ts, method=TIGHT, state0=state
    )
    for at in (0.5, 7.25):
        # seven places each, so that nothing compiles anew
        early, late = np.linspace(0.0, at, 4), np.linspace(at, 20.0, 4)
        whole = solve(np.concatenate([early, late[1:]]))
        first = solve(np.linspace(0.0, at, 7))
        for state in (first.state_at(-1), whole.state_at(3)):
            rest = solve(np.linspace(at, 20.0, 7), state)
            # the solver's tolerance, and the dense output's at the joint
            np.testing.assert_allclose(rest.theta[::2], whole.theta[3:], rtol=0, atol=1e-9)
            for key, moment in whole.moments.items():
                again = rest.moments[key][::2]
                np.testing.assert_allclose(again, moment[3:], rtol=1e-9, atol=1e-9)
