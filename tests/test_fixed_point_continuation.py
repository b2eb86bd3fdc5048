"""Advanced paths taken up at s0 > 0, with memories that are empty, partly so, or of another run."""

from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import pytest
from schedules import Pieces
from scipy.integrate import solve_ivp

import idemodels as ide

TS = 5.0 + np.arange(9.0)
BEYOND = 10.0  # steps past the end, where the gradient is held
RATE, B1, B2, EPS = 0.05, 0.9, 0.99, 1e-8
THETA0 = np.array([1.0, 2.0])
JUMP, KINK = 7.5, 10.0


def loss(theta):
    x, y = theta
    return (x - 4.0) ** 2 + 0.25 * (y - 4.0) ** 2 + 0.1 * jnp.sin(x * y)


def gradient(theta):
    x, y = theta
    swing = 0.1 * np.cos(x * y)
    return np.array([2.0 * (x - 4.0) + swing * y, 0.5 * (y - 4.0) + swing * x])


STEPPED = Pieces.of({0: (RATE,), JUMP: (0.3 * RATE,), KINK: (0.3 * RATE, 0.1 * RATE)})


def stepped(s):
    return RATE * (1.0 if s < JUMP else 0.3 if s < KINK else 0.3 + 0.1 * (s - KINK))


def follow(kind, y0, b2=B2, r2=1.0 - B2, rate=None, gradient=gradient):
    """The path at `TS` by sweeps of SciPy's, each with v(s + 1) of the one before.

    theta' = -rate upper / (sqrt(seen) + eps), with v' = gain g^2 - fade v, and y = (theta, v) or
    (theta, m, v). The first sweep, and each past its end, foretells v(s + 1) with g held.
    """
    gain, fade = (1.0, 0.0) if kind == "adagrad" else (r2, r2)
    rows, n = (3 if kind == "adam" else 2), np.size(y0) // (3 if kind == "adam" else 2)
    end = TS[-1] + BEYOND
    breaks = [] if rate is None else [JUMP - 1, JUMP, KINK - 1, KINK]
    ends = np.array([TS[0], *breaks, end - 1.0, end])

    def after(h, theta, v):
        squared = gradient(theta) ** 2
        if fade == 0:
            return v + gain * squared * h
        return v * np.exp(-fade * h) - squared * np.expm1(-fade * h)

    def ahead(path, s, theta, v):
        if path is None:
            return after(1.0, theta, v)
        if s + 1.0 <= end:
            return path(s + 1.0)[-n:]
        last = path(end)
        return after(s + 1.0 - end, last[:n], last[-n:])

    def rhs(s, y, low, high, path):
        s = min(max(s, low), high)  # on one side of a break
        theta, *first, v = y.reshape(rows, n)
        g, seen = gradient(theta), ahead(path, s, theta, v)
        upper, rates = g, [gain * g * g - fade * v]
        if kind == "adam":
            upper = first[0] / (1.0 - B1**s)
            seen = seen / (1.0 - b2 ** (s + 1.0))
            rates = [(1.0 - B1) * (g - first[0]), *rates]
        pull = -(RATE if rate is None else rate(s)) * upper / (np.sqrt(seen) + EPS)
        return np.concatenate([pull, *rates])

    def swept(path):
        parts, y = [], y0
        # Where steps are rejected in one sweep and not in the next, the two differ by rtol.
        tight = {"rtol": 2e-13, "atol": 1e-15, "max_step": 0.5, "dense_output": True}
        for a, b in pairwise(ends):
            given = np.nextafter(a, b), np.nextafter(b, a), path
            done = solve_ivp(rhs, (a, b), y, "DOP853", args=given, **tight)
            assert done.success
            parts.append(done.sol)
            y = done.y[:, -1]
        where = lambda s: min(np.searchsorted(ends, s, side="right"), len(parts)) - 1
        return lambda s: parts[where(s)](s)

    path, last = swept(None), np.inf
    for _ in range(60):
        at = np.array([path(s) for s in TS]).reshape(TS.size, rows, n)
        sizes = 1.0 + np.max(np.abs(at), axis=(0, 2), keepdims=True)
        if np.all(np.abs(at - last) < 2e-12 * sizes):
            return at
        path, last = swept(path), at
    raise ArithmeticError("the sweeps do not converge")


MATCHED = {"b2": 0.9, "r2": -np.log(0.9)}
MODELS = {
    "rmsprop": (ide.RMSProp(RATE, B2, reading="advanced"), {}),
    "adam": (ide.Adam(RATE, B1, B2, reading="advanced"), {}),
    "adagrad": (ide.AdaGrad(RATE, reading="advanced"), {}),
    "rmsprop matched": (ide.RMSProp(RATE, 0.9, reading="advanced", rate="matched"), MATCHED),
    "rmsprop stepped": (ide.RMSProp(STEPPED, B2, reading="advanced"), {"rate": stepped}),
    "adam stepped": (ide.Adam(STEPPED, B1, B2, reading="advanced"), {"rate": stepped}),
}
# of each memory, by how much of what a long run at the start's gradient has
STATES = {
    "empty": (0.0, 0.0),
    "second empty": (1.0, 0.0),
    "first empty": (0.0, 1.0),
    "next to empty": (0.5, 1e-14),
    "of another run": (-2.7, 3.0),
    "of a far larger one": (5.0, 1e4),
}


def check(path, exact, way):
    """Within the method's own tolerance, of the way that theta makes."""
    np.testing.assert_allclose(path.theta, exact[:, 0], rtol=0, atol=1e-8 * way)
    for k, moment in enumerate(path.moments.values(), 1):
        size = np.max(np.abs(exact[:, k]))
        np.testing.assert_allclose(moment, exact[:, k], rtol=0, atol=1e-8 * size)
    # what it reports covers what it has, as far as SciPy knows
    error = np.max(np.abs(path.theta - exact[:, 0]))
    assert error <= 10.0 * path.stats["solver_error"] + 3e-10 * way
    assert path.stats["residual"] <= 1e-10
    assert path.stats["extension_zeroed"] <= 1e-10 * way


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_taken_up_with_any_memories(name):
    model, by_hand = MODELS[name]
    names, g = list(model.memories()), gradient(THETA0)
    for first, second in STATES.values():
        # components of a squared gradient that are of different runs
        of = {"m": first * g, "v": second * g * g, "G": second * g * g * np.array([1.0, 7.0])}
        given = [of[key] for key in names]
        memory = {key: jnp.asarray(of[key])[None] for key in names}
        state = ide.State(TS[0], jnp.asarray(THETA0), memory)
        path = ide.solve(model, loss, None, TS, state0=state)
        exact = follow(name.split()[0], np.concatenate([THETA0, *given]), **by_hand)
        check(path, exact, np.max(np.abs(exact[:, 0] - THETA0)))


def test_one_component_of_many_is_empty():
    """Sweeps without matrices: some components have memories, others none."""
    n = 50
    theta0 = np.linspace(0.5, 1.5, n)
    v = np.where(np.arange(n) % 3 == 0, 0.0, 4.0 * (theta0 - 4.0) ** 2)
    state = ide.State(TS[0], jnp.asarray(theta0), {"v": jnp.asarray(v)[None]})
    model, _ = MODELS["rmsprop"]
    path = ide.solve(model, ide.Quadratic(), None, TS, state0=state)
    slope = lambda theta: 2.0 * (theta - 4.0)
    exact = follow("rmsprop", np.concatenate([theta0, v]), gradient=slope)
    check(path, exact, np.max(np.abs(exact[:, 0] - theta0)))


@pytest.mark.slow
def test_with_empty_memories_an_autonomous_path_is_one_from_zero():
    """Over the minimum, where a path is stiff, and memories fade by many powers of ten."""
    ts = np.arange(51.0)
    for model, name in (
        (ide.RMSProp(0.1, 0.9, reading="advanced"), "v"),
        (ide.AdaGrad(0.5, reading="advanced"), "G"),
    ):
        early = ide.solve(model, ide.Quadratic(), 1.0, ts)
        state = ide.State(5.0, jnp.asarray(1.0), {name: jnp.zeros(1)})
        late = ide.solve(model, ide.Quadratic(), None, ts + 5.0, state0=state)
        np.testing.assert_allclose(late.theta, early.theta, rtol=0, atol=1e-8 * 3.0)


@pytest.mark.slow
@pytest.mark.parametrize("model", [ide.Adam(0.1, reading="advanced"), MODELS["adam stepped"][0]])
def test_adam_goes_on_from_its_middle(model):
    ts = np.arange(21.0)  # as many places for the rest: one program
    whole = ide.solve(model, loss, THETA0, ts)
    rest = ide.solve(model, loss, None, 6.0 + 0.7 * ts, state0=whole.state_at(6))
    way = np.max(np.abs(whole.theta - THETA0[None]))
    np.testing.assert_allclose(rest.theta[::10], whole.theta[6::7], rtol=0, atol=1e-8 * way)


@pytest.mark.parametrize(
    "model",
    [
        ide.Adam(RATE),
        ide.RMSProp(RATE),
        ide.RMSProp(RATE, reading="causal"),
        ide.AdaGrad(RATE, reading="causal"),
        ide.SecondOrderAdam(RATE),
    ],
    ids=["adam", "rmsprop-closure", "rmsprop-causal", "adagrad-causal", "second-order-adam"],
)
def test_what_reads_nothing_ahead_is_refused(model):
    empty = lambda m: jnp.zeros((m.markov.state_space()[1].size, 2))
    memory = {name: empty(m) for name, m in model.memories().items()}
    velocity = jnp.zeros(2) if model.inertial else None
    state = ide.State(TS[0], jnp.asarray(THETA0), memory, velocity)
    with pytest.raises(ValueError, match=r"`method` must be .*FixedPoint\. Use .*Markov\(\)"):
        ide.solve(model, loss, None, TS, state0=state, method=ide.FixedPoint())


@pytest.mark.parametrize("memory", [{}, {"m": np.zeros((1, 2))}, {"v": np.zeros((1, 3))}])
def test_memories_of_another_model_are_refused(memory):
    model, _ = MODELS["rmsprop"]
    state = ide.State(TS[0], jnp.asarray(THETA0), memory)
    with pytest.raises(ValueError, match="`state0` must be of this model and of parameters like"):
        ide.solve(model, loss, None, TS, state0=state)
