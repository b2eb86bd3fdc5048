"""The fast convolution, the grid, transformations and failures of `History`."""

import math
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_door import Counted

import idemodels as ide
from idemodels._method.cells import Weights

STEPS = 700  # five whole blocks of 128 and a part: spans of one, two and four blocks


def half_square(theta):
    return 0.5 * jnp.sum(theta**2)


def itself(g):
    return g


def square(g):
    return g**2


def direction(s, theta, g, moments):
    return jax.tree.map(lambda m, v: m / jnp.sqrt(1.0 + v), moments["m"], moments["v"])


def model_of(kernel, rate=0.05):
    memories = {"m": ide.Memory(kernel, itself), "v": ide.Memory(kernel, square)}
    return ide.MemoryModel(memories, direction, rate)


def solve(model=None, theta0=1.0, ts=None, method=None, **options):
    model = model_of(ide.PowerLaw(0.6)) if model is None else model
    ts = np.arange(6.0) if ts is None else ts
    method = ide.History() if method is None else method
    objective = options.pop("objective", half_square)
    return ide.solve(model, objective, theta0, ts, method=method, **options)


def power_law_weights(a, h, steps):
    r"""By hand: $\int K (1 - x)$ and $\int K x$ over each cell, x = s/h - j, in long double."""
    j, a = np.arange(steps, dtype=np.longdouble), np.longdouble(a)
    difference = lambda p: ((j + 1) ** p - j**p) * np.longdouble(h) ** a
    whole = difference(a) / math.gamma(a + 1)
    far = difference(a + 1) * a / ((a + 1) * math.gamma(a + 1)) - j * whole
    return np.asarray(whole - far, float), np.asarray(far, float)


def exponential_weights(r, h, steps):
    j, d = np.arange(steps, dtype=np.longdouble), np.longdouble(r * h)
    decay = np.exp(-d * j)
    whole = -np.expm1(-d)
    far = (whole - d * np.exp(-d)) / d
    return np.asarray(decay * (whole - far), float), np.asarray(decay * far, float)


BY_HAND = {
    "power .1": (ide.PowerLaw(0.1), lambda h, n: power_law_weights(0.1, h, n)),
    "power .6": (ide.PowerLaw(0.6), lambda h, n: power_law_weights(0.6, h, n)),
    "exponential": (ide.Exponential(0.3), lambda h, n: exponential_weights(0.3, h, n)),
    "function": (
        ide.FunctionKernel(lambda s: 0.3 * jnp.exp(-0.3 * s)),
        lambda h, n: exponential_weights(0.3, h, n),
    ),
}


@pytest.mark.parametrize(("kernel", "by_hand"), BY_HAND.values(), ids=BY_HAND)
@pytest.mark.parametrize("h", [0.03, 1.0])
def test_weights_of_the_cells_are_exact(kernel, by_hand, h):
    weights = Weights.of(kernel, jnp.asarray(h), 300)
    near, far = by_hand(h, 300)
    lags = near + np.concatenate([[0.0], far[:-1]])
    np.testing.assert_allclose(weights.lags, lags, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(weights.first, far, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize(("kernel", "by_hand"), BY_HAND.values(), ids=BY_HAND)
def test_the_fast_convolution_equals_the_sum_over_the_past(kernel, by_hand):
    h = 0.25
    ts = h * np.arange(STEPS + 1)
    path = solve(model_of(kernel), jnp.array([1.0, -0.3]), ts, ide.History(4))
    near, far = by_hand(h, STEPS)
    lags = near + np.concatenate([[0.0], far[:-1]])
    for name, power in (("m", 1), ("v", 2)):
        f = np.asarray(path.theta) ** power
        dense = np.zeros_like(f)
        for n in range(1, STEPS + 1):
            dense[n] = lags[:n] @ f[n:0:-1] + far[n - 1] * f[0]
        # an FFT is exact to rounding of the largest
        np.testing.assert_allclose(path.moments[name], dense, rtol=0, atol=1e-13 * abs(dense).max())


@pytest.mark.parametrize("steps", [1, 2, 3, 127, 129, 130, 257, STEPS])
def test_the_path_equals_a_loop_over_the_same_scheme(steps):
    r, rate, h = 0.3, 0.05, 0.5
    pull = lambda m, v: -rate * m / np.sqrt(1.0 + v)
    near, far = exponential_weights(r, h, steps)
    lags = near + np.concatenate([[0.0], far[:-1]])
    theta, f, p = np.ones(steps + 1), np.ones((steps + 1, 2)), np.zeros(steps + 1)
    for n in range(1, steps + 1):
        theta[n] = theta[n - 1] + 0.5 * h * (3.0 * p[n - 1] - p[n - 2] if n > 1 else 0.0)
        past = lags[1:n] @ f[n - 1 : 0 : -1] + far[n - 1] * f[0]
        for correction in range(2 if n > 1 else 10):
            f[n] = theta[n], theta[n] ** 2
            p[n] = pull(*(past + lags[0] * f[n]))
            if n == 1 or correction == 0:
                theta[n] = theta[n - 1] + 0.5 * h * (p[n - 1] + p[n])
    ts = h * np.arange(steps + 1)
    path = solve(model_of(ide.Exponential(r), rate), ts=ts, method=ide.History(2))
    np.testing.assert_allclose(path.theta, theta, rtol=0, atol=1e-13)
    assert path.stats["num_steps"] == steps
    assert jnp.isinf(path.stats["implicit_from"])


def test_a_pytree_moves_as_its_leaves_do():
    theta0 = {"a": jnp.array([[1.0, 2.0], [0.5, -1.0]]), "b": (jnp.asarray(3.0), "held")}
    objective = lambda theta: half_square(theta["a"]) + half_square(theta["b"][0])
    ts = np.linspace(0.0, 150.0, 7)
    path = solve(theta0=theta0, ts=ts, objective=objective)
    assert path.theta["b"][1] == "held"
    a, b = (solve(theta0=x, ts=ts) for x in (theta0["a"], theta0["b"][0]))
    np.testing.assert_allclose(path.theta["a"], a.theta, rtol=0, atol=1e-14)
    np.testing.assert_allclose(path.theta["b"][0], b.theta, rtol=0, atol=1e-14)
    for name in ("m", "v"):
        np.testing.assert_allclose(path.moments[name]["a"], a.moments[name], rtol=1e-12)
        assert path.moments[name]["b"][0].shape == (7,)
    np.testing.assert_allclose(path.loss, a.loss + b.loss, rtol=1e-12)


def test_a_feature_may_have_a_shape_of_its_own():
    memories = {"v": ide.Memory(ide.PowerLaw(0.5), lambda g: jnp.sum(g**2))}
    direction = lambda s, theta, g, moments: g / jnp.sqrt(1.0 + moments["v"])
    path = solve(ide.MemoryModel(memories, direction, 0.1), jnp.ones(3))
    assert path.moments["v"].shape == (6,)
    assert path.theta.shape == (6, 3)


def test_vmap_equals_a_loop():
    ts = np.linspace(0.0, 300.0, 4)

    def run(a, rate, theta0):
        return solve(model_of(ide.PowerLaw(a), rate), theta0, ts).theta

    orders, rates, starts = (
        jnp.array([0.3, 0.5, 0.9]),
        jnp.array([0.1, 0.05, 0.01]),
        jnp.ones((3, 2)),
    )
    together = jax.vmap(run)(orders, rates, starts)
    alone = jnp.stack([run(*x) for x in zip(orders, rates, starts, strict=True)])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-12)


def test_compiled_calls_are_the_same_and_new_values_do_not_recompile():
    ts = np.linspace(0.0, 200.0, 5)
    model = model_of(ide.PowerLaw(0.4))

    @eqx.filter_jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def run(a, theta0):
        return solve(eqx.tree_at(of_order, model, (a, a)), theta0, ts).theta

    of_order = lambda m: tuple(m.memories()[name].kernel.a for name in ("m", "v"))
    for a in map(jnp.asarray, (0.4, 0.5, 0.97, 1.0)):
        alone = solve(eqx.tree_at(of_order, model, (a, a)), jnp.ones(2), ts).theta
        np.testing.assert_allclose(run(a, jnp.ones(2)), alone, rtol=0, atol=1e-11)


def test_traced_ts_need_the_number_of_steps():
    ts = jnp.linspace(0.0, 20.0, 5)
    run = lambda ts, method: solve(ts=ts, method=method).theta
    alone = run(ts, ide.History(4))
    fixed = ide.History(steps=80)
    np.testing.assert_allclose(jax.jit(lambda ts: run(ts, fixed))(ts), alone, rtol=1e-13)
    np.testing.assert_allclose(jax.jit(lambda: run(ts, ide.History(4)))(), alone, rtol=1e-13)
    with pytest.raises(
        ValueError, match=r"`steps` must be given .*History\(steps=1000\)`, or close"
    ):
        jax.jit(lambda ts: run(ts, ide.History(4)))(ts)


@pytest.mark.parametrize("steps", [3, pytest.param(200, marks=pytest.mark.slow)])
def test_derivatives_in_both_modes_equal_difference_quotients(steps):
    ts = np.array([0.0, 0.3, 0.2 * steps])

    def last(x):
        model = model_of(ide.PowerLaw(x[0]), x[1])
        path = solve(model, x[2], ts, ide.History(steps=steps))
        return path.theta[-1] + path.theta[1] + path.moments["v"][-1]

    x = jnp.array([0.6, 0.1, 1.2])
    reverse = jax.jit(jax.grad(last))(x)
    forward = jax.jit(jax.jacfwd(last))(x)
    quotients = [(last(x + e) - last(x - e)) / 2e-5 for e in 1e-5 * jnp.eye(3)]
    np.testing.assert_allclose(reverse, forward, rtol=1e-11)
    np.testing.assert_allclose(reverse, quotients, rtol=1e-7)


@pytest.mark.slow
def test_a_gradient_through_an_inertial_path():
    def last(x):
        path = solve(ide.SecondOrderAdam(x[0], x[1], x[2], velocity0=x[3]), x[4], np.arange(9.0))
        return path.theta[-1]

    x = jnp.array([0.1, 0.8, 0.9, 0.5, 1.2])
    quotients = [(last(x + e) - last(x - e)) / 2e-5 for e in 1e-5 * jnp.eye(5)]
    np.testing.assert_allclose(jax.jit(jax.grad(last))(x), quotients, rtol=1e-6)


def test_single_precision(float32):
    ts = np.linspace(0.0, 300.0, 7)
    path = solve(theta0=jnp.ones(2), ts=ts)
    assert {x.dtype for x in (path.theta, path.moments["v"], path.ts)} == {jnp.dtype("float32")}
    with jax.enable_x64(True):
        double = solve(theta0=jnp.ones(2), ts=ts)
    # 300 steps, each rounded to 6e-8
    np.testing.assert_allclose(path.theta, double.theta, rtol=0, atol=2e-5)
    np.testing.assert_allclose(path.moments["v"], double.moments["v"], rtol=2e-5)


@pytest.mark.parametrize(
    ("model", "steps"),
    [
        (ide.Adam(0.1), 200),
        (model_of(ide.PowerLaw(0.5)), 200),
        (ide.SecondOrderAdam(0.1), 130),
        (ide.Adam(0.1), 1),
    ],
    ids=["adam", "power law", "inertial", "one step"],
)
def test_counted_gradients_are_the_calls_made(model, steps):
    calls = []
    ts = np.linspace(0.0, 20.0, 5)
    path = solve(model, jnp.ones(1), ts, ide.History(steps=steps), objective=Counted(calls))
    jax.effects_barrier()
    assert path.stats["num_gradients"] == len(calls)
    assert len(calls) <= 2 * steps + 50
    assert path.stats["num_steps"] == steps


def test_what_save_returns_replaces_the_path():
    save = lambda s, theta, moments: {"norm": jnp.sum(theta**2), "v": moments["v"][0], "s": s}
    ts = np.linspace(0.0, 20.0, 5)
    whole, path = solve(theta0=jnp.ones(2), ts=ts), solve(theta0=jnp.ones(2), ts=ts, save=save)
    np.testing.assert_allclose(path.theta["norm"], jnp.sum(whole.theta**2, axis=1), rtol=1e-12)
    np.testing.assert_allclose(path.theta["v"], whole.moments["v"][:, 0], rtol=1e-12)
    np.testing.assert_allclose(path.theta["s"], ts)
    assert path.moments == {}
    with pytest.raises(ValueError, match="keeps no states"):
        whole.state_at(-1)


def test_a_path_of_one_point_is_the_start():
    path = solve(theta0=jnp.ones(2), ts=[0.0])
    np.testing.assert_array_equal(path.theta, jnp.ones((1, 2)))
    np.testing.assert_array_equal(path.moments["v"], jnp.zeros((1, 2)))


def test_a_diverging_path_is_a_value_with_advice():
    model, ts = ide.Adam(0.1, weight_decay=-20.0), np.linspace(0.0, 20.0, 41)
    with pytest.raises(RuntimeError, match=r"stopped at s = .* of 20. .* diverged: theta grew"):
        solve(model, ts=ts, method=ide.History(10))
    path = solve(model, ts=ts, method=ide.History(10), throw=False)
    assert path.result == ide.RESULTS.diverged
    kept = np.isfinite(path.theta)
    assert 5 < kept.sum() < 41
    assert np.all(kept[: kept.sum()])
    np.testing.assert_array_equal(np.isfinite(path.moments["v"]), kept)
    assert np.all(np.abs(path.theta[kept]) <= 2e8)


def test_a_gradient_that_becomes_nan_is_a_value_with_advice():
    objective = lambda theta: jnp.sqrt(theta)
    path = solve(ide.Adam(0.1), 0.5, np.arange(21.0), objective=objective, throw=False)
    assert path.result == ide.RESULTS.nonfinite_gradient
    assert jnp.isnan(path.theta[-1])
    assert jnp.isfinite(path.theta[0])


def test_a_negative_second_moment_is_counted():
    # the gradient fades within the kernel's first lobe, and the second lobe is negative
    model = ide.SecondOrderAdam(1.0, 0.5, 0.02, velocity0=3.0)
    objective = lambda theta: jnp.exp(-3.0 * theta)
    ts, method = np.arange(31.0), ide.History(8)
    path = solve(model, 0.0, ts, method, objective=objective, throw=False)
    assert path.result == ide.RESULTS.negative_second_moment
    assert 0 < path.stats["num_clamped"] < 240
    assert jnp.all(jnp.isfinite(path.theta))
    fine = solve(ide.SecondOrderAdam(0.05), 1.0, np.arange(31.0))
    assert fine.stats["num_clamped"] == 0


@pytest.mark.parametrize("name", ["substeps", "steps"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "many"])
def test_the_constructor_names_what_is_wrong(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a positive integer, but is {value!r}"):
        ide.History(**{name: value})


def test_a_path_is_not_gone_on_from():
    state = solve(ide.Adam(0.1), method=ide.Markov()).state_at(-1)
    with pytest.raises(ValueError, match="`state0` must be None .*History.*Markov"):
        solve(ide.Adam(0.1), ts=[5.0, 6.0], state0=state)


def test_an_equation_of_another_kind_is_refused():
    with pytest.raises(
        ValueError, match="infinite at s = 0, but is History. Use `idemodels.Markov"
    ):
        solve(ide.RMSProp(0.1, reading="causal"))


class Broken(ide.AbstractKernel):
    """One, but `value` from lag 3.2 on."""

    value: float

    def evaluate(self, lag):
        return jnp.where(lag > 3.2, self.value, 1.0)

    def integral(self, lag):
        return lag


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_kernel_that_breaks_is_named(value):
    with pytest.raises(ValueError, match=f"'m', Broken.* finite, but is {value} at lag 3.2"):
        solve(model_of(Broken(value)))
    path = jax.jit(lambda: solve(model_of(Broken(value)), throw=False))()
    assert path.result == ide.RESULTS.invalid_kernel


def test_a_negative_function_is_named():
    # negative only between the lags at which the constructor looks
    kernel = ide.FunctionKernel(lambda s: jnp.where(jnp.abs(s - 2.5) < 0.2, -1.0, 1.0))
    with pytest.raises(
        ValueError, match="'m', FunctionKernel.* not negative, but is -1 at lag 2.3"
    ):
        solve(model_of(kernel), method=ide.History(4))


_LONG = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
import idemodels as ide
memories = {"m": ide.Memory(ide.PowerLaw(0.5), lambda g: g)}
model = ide.MemoryModel(memories, lambda s, theta, g, moments: moments["m"], 1e-3)
ts = np.linspace(0.0, 100_000.0, 101)
path = ide.solve(model, lambda x: 0.5 * x**2, 1.0, ts, method=ide.History())
jax.block_until_ready(path)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own count")
def test_a_hundred_thousand_steps_fit_into_a_gibibyte():
    # not `ru_maxrss`, which a child process takes over from the one that started it
    out = subprocess.run([sys.executable, "-c", _LONG], check=True, capture_output=True, text=True)
    assert int(out.stdout) / 2**20 < 1.0
