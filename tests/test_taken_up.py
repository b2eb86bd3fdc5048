"""Paths taken up at s0 > 0, with memories that are empty, partly so, or of another run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import idemodels as ide

METHOD = ide.Markov(rtol=1e-8, atol=1e-11)
RATE, B1, B2 = 0.02, 0.9, 0.99


def gradient(x):
    return np.array([2.0, 0.5]) * (x - 4.0)


def loss(theta):
    return jnp.sum(jnp.array([1.0, 0.25]) * (theta - 4.0) ** 2)


def reference(model, s, theta, states):
    """SciPy in sqrt(s - s0), where an empty memory makes the path smooth."""
    n = theta.size

    def rhs(r, y):
        u, x = s[0] + r * r, y[:n]
        g, z = gradient(x), y[n:].reshape(-1, n)
        if model == "adam":
            m, v = z
            mh, vh = m / -np.expm1(u * np.log(B1)), v / -np.expm1(u * np.log(B2))
            pull = mh / (np.sqrt(np.maximum(vh, 0)) + 1e-8)
            rates = [(1 - B1) * (g - m), (1 - B2) * (g * g - v)]
        else:
            (v,) = z
            fades = 0.0 if model.startswith("adagrad") else 1 - B2
            gains = 1.0 if model.startswith("adagrad") else 1 - B2
            # the closure foretells the next step's moment with the gradient held
            seen = v if model.endswith("causal") else v - fades * v + gains * g * g
            pull = g / (np.sqrt(np.maximum(seen, 0)) + 1e-8)
            rates = [gains * g * g - fades * v]
        return 2 * r * np.concatenate([-RATE * pull, *rates])

    y0 = np.concatenate([theta, *states])
    r = np.sqrt(s - s[0])
    return solve_ivp(rhs, (0, r[-1]), y0, "Radau", rtol=1e-11, atol=1e-14, t_eval=r).y[:n].T


MODELS = {
    "adam": ide.Adam(RATE, B1, B2),
    "rmsprop-closure": ide.RMSProp(RATE, B2),
    "rmsprop-causal": ide.RMSProp(RATE, B2, reading="causal"),
    "adagrad-closure": ide.AdaGrad(RATE),
    "adagrad-causal": ide.AdaGrad(RATE, reading="causal"),
}
# of each memory, by how much of what a long run at the start's gradient has
STATES = {"empty": (0.0, 0.0), "partly empty": (0.0, 1.0), "of another run": (0.3, 2.0)}


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("rmsprop-causal", "empty"),
        ("adagrad-causal", "partly empty"),
        *(
            pytest.param(name, held, marks=pytest.mark.slow)
            for name in MODELS
            for held in STATES
            if (name, held) not in (("rmsprop-causal", "empty"), ("adagrad-causal", "partly empty"))
        ),
    ],
)
@pytest.mark.parametrize("s0", [0.5, 30.0])
def test_taken_up_with_any_memories(name, held, s0):
    theta = np.array([1.0, 2.0])
    share, g = np.array(STATES[held]), gradient(theta)
    of = {"m": share * g, "v": share * g * g, "G": 5 * share * g * g}
    model = MODELS[name]
    names = list(model.memories())
    memory = {key: jnp.asarray(of[key])[None] for key in names}
    s = s0 + np.arange(0.0, 41.0, 2.0)
    state = ide.State(s0, jnp.asarray(theta), memory)
    path = ide.solve(model, loss, theta, s, state0=state, method=METHOD)
    exact = reference(name, s, theta, [of[key] for key in names])
    np.testing.assert_allclose(path.theta, exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("s0", [0.5, pytest.param(3.0, marks=pytest.mark.slow)])
def test_second_order_adam_begins_with_the_memories_it_is_given(s0):
    b1, b2, rate, v0, theta = 0.99, 0.999, 0.1, 1.0, -1.5
    slope = lambda x: 2 * (x - 1) + 16 * x * (x * x - 1)

    def rhs(u, y):
        x, w, m, dm, v, dv = y
        g = slope(x)
        c1, c2 = -np.expm1(u * np.log(b1)), -np.expm1(u * np.log(b2))
        d = (m / c1) / (np.sqrt(max(v, 0) / c2) + 1e-8)
        pulls = [2 * ((1 - b1) * (g - m) - dm), 2 * ((1 - b2) * (g * g - v) - dv)]
        return [w, 2 * (-rate * d - w), dm, pulls[0], dv, pulls[1]]

    s = s0 + np.arange(0.0, 41.0, 2.0)
    tight = dict(rtol=1e-10, atol=1e-15, t_eval=s, max_step=0.5, first_step=1e-4)
    exact = solve_ivp(rhs, (s[0], s[-1]), [theta, rate * v0, 0, 0, 0, 0], "DOP853", **tight).y[0]
    memory = {name: jnp.zeros(2) for name in "mv"}
    state = ide.State(s0, jnp.asarray(theta), memory, jnp.asarray(rate * v0))
    model = ide.SecondOrderAdam(rate, b1, b2, velocity0=v0)
    path = ide.solve(model, ide.TiltedDoubleWell(4.0), theta, s, state0=state, method=METHOD)
    np.testing.assert_allclose(path.theta, exact, rtol=0, atol=1e-7)


def test_a_path_that_goes_on_is_the_whole_path():
    model, ts = ide.RMSProp(0.01, 0.9, reading="causal"), np.arange(0.0, 41.0, 5.0)
    whole = ide.solve(model, ide.Quadratic(), 1.0, ts, method=METHOD)
    later = ide.solve(model, ide.Quadratic(), 1.0, ts[3:], state0=whole.state_at(3), method=METHOD)
    np.testing.assert_allclose(later.theta, whole.theta[3:], rtol=0, atol=1e-8)


@pytest.mark.parametrize("model", [ide.Adam(0.05), ide.RMSProp(0.05, reading="causal")])
@pytest.mark.parametrize("end", [1e-3, 1e-12, 1e-20, 1e-300])
def test_the_shortest_paths(model, end):
    path = ide.solve(model, ide.Quadratic(), 1.0, np.array([0.0, end]))
    assert abs(float(path.theta[-1]) - 1.0) < 0.4 * np.sqrt(end)


@pytest.mark.parametrize("end", [1e-3, 1e-12, 1e-30])
def test_the_shortest_paths_in_single_precision(float32, end):
    path = ide.solve(ide.Adam(0.05), ide.Quadratic(), 1.0, np.array([0.0, end]))
    assert abs(float(path.theta[-1]) - 1.0) < 1e-4


@pytest.mark.parametrize("model", [ide.Adam(0.01), ide.RMSProp(0.01, 0.9, reading="causal")])
def test_the_derivative_in_the_last_step_is_the_velocity(model):
    def end(t):
        ts, method = jnp.stack([jnp.zeros(()), t]), ide.Markov(rtol=1e-6)
        return ide.solve(model, ide.Quadratic(), 1.0, ts, method=method).theta[-1]

    slope = float(end(jnp.asarray(20.5)) - end(jnp.asarray(19.5)))
    assert float(jax.grad(end)(20.0)) == pytest.approx(slope, rel=1e-4)
