"""Derivatives of many runs at once: lanes, random draws, and what never moves."""

import functools

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references as ref
from scipy.special import expit

import idemodels as ide

DRAWS = 1250  # of each model; 10,000 in all
METHOD = ide.Markov(rtol=1e-4, atol=1e-7, max_steps=300)


class Valleys(ide.Quadratic):
    """Of two parameters; one may have no curvature, and none gets a gradient from its minimum."""

    def __call__(self, theta):
        return 0.5 * jnp.sum(self.curvature * (theta - self.minimum) ** 2)


def adam(p):
    decay = {"weight_decay": p["l2"]}
    return ide.Adam(p["learning_rate"], p["b1"], p["b2"], eps=p["eps"], **decay)


def matched(p):
    return ide.Adam(p["learning_rate"], p["b1"], p["b2"], eps=p["eps"], rate="matched")


def second_order(p):
    return ide.SecondOrderAdam(p["learning_rate"], p["b1"], p["b2"], eps=p["eps"])


def rmsprop(reading):
    def make(p):
        return ide.RMSProp(p["learning_rate"], p["b2"], eps=p["eps"], reading=reading, l2=p["l2"])

    return make


def adagrad(reading):
    def make(p):
        return ide.AdaGrad(p["learning_rate"], eps=p["eps"], reading=reading, l2=p["l2"])

    return make


MODELS = {
    "adam": adam,
    "adamw": adam,
    "adam-matched": matched,
    "rmsprop": rmsprop("closure"),
    "rmsprop-causal": rmsprop("causal"),
    "adagrad": adagrad("closure"),
    "adagrad-causal": adagrad("causal"),
    "second-order": second_order,
}
HELD = {"adam": {"l2": 0.0}, "adamw": {"eps": 1e-8}}


def drawn(count, seed):
    """Hyperparameters and starts; a third of the numbers that may be 0 are."""
    draw = np.random.default_rng(seed)
    zero = lambda x: np.where(draw.random(x.shape) < 1 / 3, 0.0, x)
    return {
        "learning_rate": 10.0 ** draw.uniform(-4, 0, count),
        "b1": draw.uniform(0.05, 0.99, count),
        "b2": 1.0 - 10.0 ** draw.uniform(-3.5, -0.5, count),
        "eps": 10.0 ** draw.uniform(-10, -1, count),
        "l2": zero(10.0 ** draw.uniform(-3, 0, count)),
        "theta0": zero(draw.normal(size=(count, 2))),
        "curvature": zero(10.0 ** draw.uniform(-2, 2, (count, 2))),
        "minimum": zero(draw.normal(size=(count, 2))),
    }


@functools.cache
def gradients_of(make):
    def last(p):
        objective = Valleys(p["curvature"], p["minimum"])
        given = make(p), objective, p["theta0"], np.array([0.0, 15.0])
        path = ide.solve(*given, method=METHOD, throw=False)
        return path.loss[-1], path.result

    return jax.jit(jax.vmap(jax.grad(last, has_aux=True)))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_derivative_is_finite_or_the_result_says_why(name):
    lanes = drawn(DRAWS, sorted(MODELS).index(name))
    for key, value in HELD.get(name, {}).items():
        lanes[key] = np.full(DRAWS, value)
    found, result = gradients_of(MODELS[name])(lanes)
    rows = [np.asarray(x).reshape(DRAWS, -1) for x in found.values()]
    finite = np.all([np.all(np.isfinite(x), axis=1) for x in rows], axis=0)
    okay = np.asarray(ide.is_okay(result))
    wrong = np.flatnonzero(~finite & okay)
    assert wrong.size == 0, {key: x[wrong[:3]] for key, x in lanes.items()}
    assert np.mean(okay) > 0.85  # the others need more steps, and say so


@pytest.mark.slow
def test_256_lanes_of_gradients_equal_single_ones_and_a_nan_stays_in_its_lane():
    traces = 0

    def last(p):
        nonlocal traces
        traces += 1
        given = ide.Adam(p["learning_rate"], b2=p["b2"]), ide.Quadratic(), p["theta0"]
        return ide.solve(*given, np.array([0.0, 30.0]), method=METHOD, throw=False).loss[-1]

    lanes = {key: drawn(256, 0)[key] for key in ("learning_rate", "b2", "theta0")}
    lanes["theta0"] = lanes["theta0"][:, 0]
    lanes["theta0"][77] = np.nan
    mapped = jax.jit(jax.vmap(jax.grad(last)))
    found = mapped(lanes)
    once = traces
    mapped(jax.tree.map(lambda x: x[::-1], lanes))
    assert traces == once
    single = jax.jit(jax.grad(last))
    rest = np.arange(256) != 77
    assert all(np.isnan(x[77]) for x in found.values())
    for i in np.flatnonzero(rest):
        one = single({key: x[i] for key, x in lanes.items()})
        for key, x in one.items():
            # with no step size carried, rounding is magnified by 1/rtol
            np.testing.assert_allclose(
                found[key][i], x, rtol=1e-6, atol=1e-12, err_msg=f"{key} {i}"
            )
    assert all(np.all(np.isfinite(x[rest])) for x in found.values())


def test_a_pixel_that_is_always_black_has_a_derivative_in_the_discrete_run_too():
    x = np.array([[1.0, 0.0], [0.5, 0.0], [-1.0, 0.0]])
    loss = lambda theta: jnp.mean(jnp.log1p(jnp.exp(-(x @ theta))))

    def last(rate):
        return ide.run_discrete(ide.Adam(rate), loss, jnp.array([0.1, 0.2]), 30).loss[-1]

    slope = jax.jit(jax.grad(last))(0.01)
    h = 2e-5
    low, lower, higher, high = (last(0.01 + k * h) for k in (-2, -1, 1, 2))
    quotient = (low - 8 * lower + 8 * higher - high) / (12 * h)
    np.testing.assert_allclose(slope, quotient, rtol=1e-7)
    forwards = jax.jvp(last, (0.01,), (1.0,))[1]
    np.testing.assert_allclose(forwards, slope, rtol=1e-12)


def test_a_second_moment_of_zero_is_not_changed_by_being_differentiated():
    loss = lambda theta: theta[0] ** 2 + 0.0 * theta[1]

    def moments(rate):
        path = ide.run_discrete(ide.RMSProp(rate), loss, jnp.array([1.0, 1.0]), 5)
        return path.theta, path.moments["v"]

    plain = moments(0.01)
    (theta, v), _ = jax.jvp(moments, (0.01,), (1.0,))
    np.testing.assert_array_equal(theta, plain[0])
    np.testing.assert_array_equal(v, plain[1])
    assert np.all(v[:, 1] == 0.0)


@pytest.mark.slow
def test_a_held_path_has_derivatives():
    method = ide.Markov(rtol=1e-6, steady_tol=1e-6)

    def last(rate, adjoint):
        given = ide.RMSProp(rate, 0.9, reading="causal"), ide.Quadratic(), 1.0
        path = ide.solve(*given, np.array([0.0, 4000.0]), method=method, adjoint=adjoint)
        return path.theta[-1]

    forwards = jax.jvp(lambda rate: last(rate, dfx.ForwardMode()), (0.01,), (1.0,))[1]
    reverse = jax.grad(lambda rate: last(rate, None))(0.01)
    assert np.isfinite(forwards)
    np.testing.assert_allclose(forwards, reverse, rtol=1e-6, atol=1e-9)


# A logistic regression whose steps are bounded by stability at loose tolerances.
_RNG = np.random.default_rng(0)
INPUTS = jnp.asarray(_RNG.normal(size=(200, 20)))
LABELS = jnp.asarray(INPUTS @ _RNG.normal(size=20) > 0, float)
# a central difference of the loss after 50 steps in the first sample's weight
IN_FIRST_WEIGHT = 7.15009e-5


def weighted(theta, weights):
    z = INPUTS @ theta[:20] + theta[20]
    return jnp.mean(weights * (jnp.logaddexp(0, z) - LABELS * z))


def last_loss(weight, method, adjoint=None):
    weights = jnp.ones(200).at[0].set(weight)
    given = ide.Adam(0.05), weighted, jnp.zeros(21), np.array([0.0, 50.0])
    return ide.solve(*given, args=weights, method=method, adjoint=adjoint).loss[-1]


def test_the_derivative_that_others_are_compared_with_is_the_central_difference():
    """Of paths by SciPy."""
    Z = np.hstack([INPUTS, np.ones((200, 1))])

    def last(weight):
        weights = np.ones(200)
        weights[0] = weight
        slope = lambda w: Z.T @ (weights * (expit(Z @ w) - LABELS)) / 200
        loss = ref.Loss(np.zeros(21), slope, hessian=None)
        theta = ref.solve(ref.adam(0.05, 0.9, 0.999), loss, [0.0, 50.0])[-1]
        return float(weighted(theta, weights))

    found = (last(1 + 1e-3) - last(1 - 1e-3)) / 2e-3
    np.testing.assert_allclose(found, IN_FIRST_WEIGHT, rtol=1e-4)


def test_a_derivative_is_right_where_stability_bounds_the_steps():
    method = ide.Markov(dfx.Tsit5(), rtol=1e-4, atol=1e-4)
    found = jax.jit(jax.grad(lambda w: last_loss(w, method)))(1.0)
    np.testing.assert_allclose(found, IN_FIRST_WEIGHT, rtol=1e-2)


def test_so_is_one_in_what_the_first_gradient_does_not_depend_on():
    """Eagerly, and in forward mode: nothing that the solve begins with is traced."""
    method = ide.Markov(dfx.Tsit5(), rtol=1e-4, atol=1e-4)

    def last(rate, **options):
        ts = np.array([0.0, 50.0])
        given = ide.Adam(rate), lambda theta: weighted(theta, 1.0), np.zeros(21), ts
        return ide.solve(*given, **options).loss[-1]

    forwards = lambda rate: last(rate, method=method, adjoint=dfx.ForwardMode())
    _, found = jax.jvp(forwards, (0.05,), (1.0,))
    tight = {"method": ide.Markov(dfx.Tsit5(), rtol=1e-8)}
    right = (last(0.05 + 1e-4, **tight) - last(0.05 - 1e-4, **tight)) / 2e-4
    np.testing.assert_allclose(found, right, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("solver", [dfx.Bosh3(), dfx.Tsit5(), dfx.Dopri8()])
def test_a_derivative_at_the_stability_limit_is_the_same_in_both_modes_and_under_vmap(solver):
    method = ide.Markov(solver, rtol=1e-3, atol=1e-6)
    reverse = jax.jit(jax.vmap(jax.grad(lambda w: last_loss(w, method))))(jnp.array([1.0, 1.1]))
    np.testing.assert_allclose(reverse[0], IN_FIRST_WEIGHT, rtol=1e-2)
    along = lambda w: last_loss(w, method, dfx.ForwardMode())
    forwards = jax.jit(lambda w: jax.jvp(along, (w,), (1.0,))[1])(1.0)
    np.testing.assert_allclose(forwards, reverse[0], rtol=1e-4)


def test_a_path_alone_makes_no_more_steps_for_a_derivative_that_nobody_takes():
    method = ide.Markov(dfx.Tsit5(), rtol=1e-4, atol=1e-4)

    def steps(rate):
        path = ide.solve(ide.Adam(rate), ide.Quadratic(), 1.0, np.array([0.0, 30.0]), method=method)
        return path.loss[-1], path.stats["num_gradients"]

    alone, traced = steps(0.1), jax.jit(steps)(0.1)
    np.testing.assert_array_equal(alone[1], traced[1])
    np.testing.assert_allclose(alone[0], traced[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("model", "adjoint"),
    [
        (ide.RMSProp, None),
        pytest.param(ide.RMSProp, dfx.ForwardMode(), marks=pytest.mark.slow),
        pytest.param(ide.Adam, None, marks=pytest.mark.slow),
        pytest.param(ide.Adam, dfx.ForwardMode(), marks=pytest.mark.slow),
    ],
    ids=["rmsprop", "rmsprop-forwards", "adam", "adam-forwards"],
)
def test_an_objective_may_close_over_what_is_differentiated(model, adjoint):
    weights, ts = np.array([0.5, 1.0, 1.5]), np.array([0.0, 20.0])

    def by_closure(scale):
        loss = lambda theta: jnp.sum(jnp.cosh(scale * weights * theta))
        return ide.solve(model(0.02), loss, jnp.ones(3), ts, adjoint=adjoint).loss[-1]

    def by_args(scale):
        loss = lambda theta, c: jnp.sum(jnp.cosh(c * theta))
        given = model(0.02), loss, jnp.ones(3), ts
        return ide.solve(*given, args=scale * weights, adjoint=adjoint).loss[-1]

    slope = jax.grad if adjoint is None else jax.jacfwd
    expected = slope(by_args)(1.3)
    np.testing.assert_allclose(slope(by_closure)(1.3), expected, rtol=1e-10)
    in_jit = jax.jit(slope(lambda scale: by_closure(scale * jnp.asarray(1.0))))
    np.testing.assert_allclose(in_jit(1.3), expected, rtol=1e-10)
