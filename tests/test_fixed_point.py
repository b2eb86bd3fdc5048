"""The advanced equation against an independent solution, and its three errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references_advanced as ref

import idemodels as ide

QUADRATIC, WELL = ide.Quadratic(), ide.DoubleWell()
# gradient and second derivative by hand, and the start
BY_HAND = {
    "quadratic": (lambda y: 2.0 * (y - 4.0), lambda y: 2.0 + 0.0 * y, 1.0),
    "double well": (lambda y: y * (y - 1.0) * (y + 1.0), lambda y: 3.0 * y * y - 1.0, 0.1),
}
OBJECTIVES = {"quadratic": QUADRATIC, "double well": WELL}
# the paper's steps at learning rates 0.1 and 0.01
STEPS = {
    ("rmsprop", "quadratic"): (50, 500),
    ("rmsprop", "double well"): (15, 100),
    ("adagrad", "quadratic"): (1500, 15000),
    ("adagrad", "double well"): (50, 4000),
}
RMSPROP = [("quadratic", b) for b in (0.0, 0.9, 0.99)] + [
    pytest.param("double well", b, marks=pytest.mark.slow) for b in (0.0, 0.9, 0.99)
]


def rmsprop(learning_rate, decay, **options):
    return ide.RMSProp(learning_rate, decay, reading="advanced", **options)


def check_errors(path):
    """What the issue of every solve must be, before its path is looked at."""
    assert path.result == ide.RESULTS.successful
    assert path.stats["residual"] <= 1e-10
    assert path.stats["extension_doubled"] < 1e-10
    assert path.stats["extension_zeroed"] < 1e-10


def check_path(model, problem, objective, theta0, steps, **resolution):
    ts = np.arange(steps + 1.0)
    path = ide.solve(model, objective, theta0, ts)
    check_errors(path)
    theta, v = ref.solve(problem, steps, **resolution)
    way = np.max(np.abs(theta - theta[0]))
    np.testing.assert_allclose(path.theta, theta, rtol=0, atol=1e-7 * way)
    (moment,) = path.moments.values()
    np.testing.assert_allclose(moment, v, rtol=1e-6, atol=1e-7 * v.max())
    # the error that the solve reports covers the one that it has, as far as the reference knows
    error = np.max(np.abs(path.theta - theta))
    assert error <= 10.0 * path.stats["solver_error"] + 3e-9 * way


@pytest.mark.parametrize("rate", [0.1, pytest.param(0.01, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "decay"), RMSPROP)
def test_rmsprop_is_the_independent_solution(name, decay, rate):
    steps = STEPS["rmsprop", name][rate == 0.01]
    problem = ref.rmsprop(rate, decay, *BY_HAND[name])
    # with a long memory the first step leads over the whole slope of the well
    per_step = 8 if (name, decay, rate) == ("double well", 0.99, 0.1) else 2
    args = (rmsprop(rate, decay), problem, OBJECTIVES[name], BY_HAND[name][2], steps)
    check_path(*args, per_step=per_step)


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("quadratic", 0.1),
        pytest.param("quadratic", 0.01, marks=pytest.mark.slow),
        pytest.param("double well", 0.1, marks=pytest.mark.slow),
        pytest.param("double well", 0.01, marks=pytest.mark.slow),
    ],
)
def test_adagrad_is_the_independent_solution(name, rate):
    steps = STEPS["adagrad", name][rate == 0.01]
    problem = ref.adagrad(rate, *BY_HAND[name])
    model = ide.AdaGrad(rate, reading="advanced")
    args = (model, problem, OBJECTIVES[name], BY_HAND[name][2], steps)
    check_path(*args, points=14 if steps < 4000 else 10, per_step=1)


def test_both_wells_and_the_ridge_between_them():
    ts = np.arange(16.0)
    path, mirrored, still = (
        ide.solve(rmsprop(0.1, 0.9), WELL, start, ts) for start in (0.1, -0.1, 0.0)
    )
    np.testing.assert_allclose(path.theta, -mirrored.theta, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(still.theta, 0.0)
    assert ide.is_okay(still.result)


# max |theta_IDE(k) - theta_k| on the quadratic, at learning rates 0.1 and 0.01, as printed
FACTS = {
    "rmsprop 0": (lambda rate: rmsprop(rate, 0.0), (50, 500), (".0915", ".0099")),
    "rmsprop .9": (lambda rate: rmsprop(rate, 0.9), (50, 500), (".0471", ".0073")),
    "rmsprop .99": (lambda rate: rmsprop(rate, 0.99), (50, 500), (".109", ".033")),
    "adagrad": (
        lambda rate: ide.AdaGrad(rate, reading="advanced"),
        (1500, 150_000),
        (".0355", ".00495"),
    ),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n == "rmsprop 0" else n for n in FACTS],
)
def test_errors_are_those_known(name):
    make, steps, printed = FACTS[name]
    for rate, n, text in zip((0.1, 0.01), steps, printed, strict=True):
        ts = np.arange(0, n + 1, max(1, n // 1500))
        path = ide.solve(make(rate), QUADRATIC, 1.0, ts)
        run = ide.run_discrete(make(rate), QUADRATIC, 1.0, n, ts=ts)
        digit = 10.0 ** -(len(text) - 1)
        assert abs(float(ide.compare(path, run).max_error) - float(text)) <= 0.501 * digit


ANY = {
    "adam": (ide.Adam(0.1, reading="advanced"), QUADRATIC, 1.0, 20),
    "adam b1 = 0": (ide.Adam(0.1, b1=0.0, reading="advanced"), QUADRATIC, 1.0, 20),
    "matched": (rmsprop(0.1, 0.9, rate="matched"), QUADRATIC, 1.0, 20),
    "l2 and decay": (rmsprop(0.1, 0.9, l2=0.3, weight_decay=0.05), QUADRATIC, 1.0, 20),
    "lr_decay": (ide.AdaGrad(0.1, reading="advanced", lr_decay=0.1), QUADRATIC, 1.0, 20),
    "rosenbrock": (rmsprop(0.01, 0.9), ide.Rosenbrock(), jnp.array([-1.2, 1.0]), 20),
}


@pytest.mark.parametrize(
    "name", [name if name == "adam" else pytest.param(name, marks=pytest.mark.slow) for name in ANY]
)
def test_the_path_satisfies_the_equation_term_by_term(name):
    """Velocity by differences, v(s + 1) read off the path a step later: no code of the solver."""
    model, objective, theta0, steps = ANY[name]
    fine = 200
    ts = np.linspace(0.0, steps + 1.0, (steps + 1) * fine + 1)
    path = ide.solve(model, objective, theta0, ts)
    check_errors(path)
    inner = np.arange(2, steps * fine, 7)
    theta = np.asarray(path.theta)
    h = ts[1]
    velocity = (
        8.0 * (theta[inner + 1] - theta[inner - 1]) - (theta[inner + 2] - theta[inner - 2])
    ) / (12.0 * h)
    g = jax.vmap(jax.grad(objective))(path.theta) + 0.5 * float(model.l2) * path.theta
    g, s = np.asarray(g)[inner], ts[inner]
    s = s if theta.ndim == 1 else s[:, None]
    (second,) = set(path.moments) - {"m"}
    ahead = np.asarray(path.moments[second])[inner + fine]
    if name.startswith("adam"):
        ahead = ahead / (1.0 - float(model.b2) ** (s + 1.0))
        correction = 1.0 - float(model.b1) ** s if model.b1 > 0 else 1.0
        g = np.asarray(path.moments["m"])[inner] / correction
    c = 1.0 / (1.0 + s * float(model.lr_decay)) if name == "lr_decay" else 1.0
    direction = c * g / (np.sqrt(ahead) + 1e-8) + float(model.weight_decay) * theta[inner]
    expected = -float(model.learning_rate) * direction
    # the differences' own error: h^4 times a fifth derivative, and rounding over h
    np.testing.assert_allclose(velocity, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.slow
def test_a_memory_model_that_reads_ahead_is_rmsprop():
    v = ide.Memory(ide.Exponential(0.1), lambda g: g**2, ahead=1)
    direction = lambda s, theta, g, moments: g / (jnp.sqrt(moments["v"]) + 1e-8)
    model, ts = ide.MemoryModel({"v": v}, direction, 0.1), np.arange(21.0)
    path = ide.solve(model, QUADRATIC, 1.0, ts)
    again = ide.solve(rmsprop(0.1, 0.9), QUADRATIC, 1.0, ts)
    np.testing.assert_allclose(path.theta, again.theta, rtol=0, atol=1e-11)


@pytest.mark.slow
def test_a_signed_memory_and_several_ahead():
    """Both of Adam's moments a step ahead, debiased; the matched rate makes that optax's order."""
    memories = {
        name: ide.Memory(ide.Exponential(-np.log(b)), f, debias=True, ahead=1)
        for name, b, f in (("m", 0.9, lambda g: g), ("v", 0.99, lambda g: g**2))
    }
    direction = lambda s, theta, g, moments: moments["m"] / (jnp.sqrt(moments["v"]) + 1e-8)
    model, ts = ide.MemoryModel(memories, direction, 0.05), np.arange(61.0)
    path = ide.solve(model, QUADRATIC, 1.0, ts)
    check_errors(path)
    run = ide.run_discrete(ide.Adam(0.05, 0.9, 0.99), QUADRATIC, 1.0, 60)
    assert ide.compare(path, run).relative_error < 0.05


@pytest.mark.slow
def test_how_far_the_end_reaches_is_reported():
    ts = np.arange(5.0)
    solve = lambda extension: ide.solve(
        rmsprop(0.1, 0.9), QUADRATIC, 1.0, ts, method=ide.FixedPoint(extension=extension)
    )
    far = solve(16.0)
    moved = []
    for extension in (1.0, 2.0):
        path = solve(extension)
        moved.append(float(path.stats["extension_doubled"]))
        away = float(jnp.max(jnp.abs(path.theta - far.theta)))
        np.testing.assert_allclose(moved[-1], away, rtol=1e-2)  # up to what twice as far leaves
        assert path.stats["extension_zeroed"] > 10.0 * moved[-1]
    # each step further counts thousands of times less
    assert 1e-8 < moved[0] < 1e-6
    assert moved[1] < 1e-3 * moved[0]


def test_a_fixed_point_that_is_not_reached_is_a_value_with_advice():
    method = ide.FixedPoint(max_sweeps=1, elements=64)
    ts = np.arange(51.0)
    with pytest.raises(RuntimeError, match=r"fixed point .* was not reached.*`max_sweeps`"):
        ide.solve(rmsprop(0.1, 0.9), QUADRATIC, 1.0, ts, method=method)
    path = ide.solve(rmsprop(0.1, 0.9), QUADRATIC, 1.0, ts, method=method, throw=False)
    assert path.result == ide.RESULTS.fixed_point_not_reached
    assert np.all(np.isnan(path.theta[1:]))
    assert path.stats["residual"] > 1e-10


@pytest.mark.slow
def test_too_few_elements_are_a_value_with_advice():
    method = ide.FixedPoint(elements=6)
    ts = np.arange(51.0)
    with pytest.raises(RuntimeError, match=r"elements .* are too few.*Raise `elements`, or `tol`"):
        ide.solve(rmsprop(0.1, 0.9), QUADRATIC, 1.0, ts, method=method)
    path = ide.solve(rmsprop(0.1, 0.9), QUADRATIC, 1.0, ts, method=method, throw=False)
    assert path.result == ide.RESULTS.mesh_too_coarse
    assert path.stats["solver_error"] > 1e-8


@pytest.mark.slow
def test_more_elements_are_tried_until_the_tolerance_is_kept():
    ts = np.arange(0.0, 501.0, 10.0)
    solve = lambda tol: ide.solve(
        rmsprop(0.01, 0.0), QUADRATIC, 1.0, ts, method=ide.FixedPoint(tol=tol)
    )
    rough, tight = solve(1e-8), solve(1e-12)
    assert tight.stats["num_steps"] > rough.stats["num_steps"]
    assert tight.stats["solver_error"] <= 3e-12


def final(rate, decay, theta0):
    ts = np.array([0.0, 11.0, 30.0])
    method = ide.FixedPoint(elements=64)
    return ide.solve(rmsprop(rate, decay), QUADRATIC, theta0, ts, method=method).theta[1]


AT = (0.05, 0.9, 1.0)


def differences(h=1e-5):
    moved = lambda i, h: final(*(x + h * (i == k) for k, x in enumerate(AT)))
    return [(moved(i, h) - moved(i, -h)) / (2.0 * h) for i in range(3)]


@pytest.mark.slow
def test_derivatives_are_those_of_the_implicit_function_theorem():
    wanted = differences()
    np.testing.assert_allclose(jax.grad(final, (0, 1, 2))(*AT), wanted, rtol=1e-7)
    forward = jax.jvp(lambda x: final(x, *AT[1:]), AT[:1], (1.0,))[1]
    np.testing.assert_allclose(forward, wanted[0], rtol=1e-7)


@pytest.mark.slow
def test_lanes_are_the_single_runs():
    rates = jnp.array([0.05, 0.02, 0.1])
    lanes = jax.jit(jax.vmap(lambda rate: final(rate, *AT[1:])))(rates)
    loop = jnp.stack([final(rate, *AT[1:]) for rate in rates])
    np.testing.assert_allclose(lanes, loop, rtol=0, atol=1e-9)  # the tolerance


@pytest.mark.slow
def test_a_path_goes_on_from_its_middle():
    ts = np.arange(21.0)
    whole = ide.solve(rmsprop(0.1, 0.9), QUADRATIC, 1.0, ts)
    rest = ide.solve(rmsprop(0.1, 0.9), QUADRATIC, 1.0, ts[8:], state0=whole.state_at(8))
    np.testing.assert_allclose(rest.theta, whole.theta[8:], rtol=0, atol=1e-8)


@pytest.mark.slow
def test_parameters_are_any_pytree():
    theta0 = {"a": jnp.array([1.0, 2.0]), "b": (jnp.array(0.5), "held")}
    objective = lambda theta: jnp.sum((theta["a"] - 4.0) ** 2) + (theta["b"][0] - 4.0) ** 2
    ts = np.arange(11.0)
    path = ide.solve(rmsprop(0.1, 0.9), objective, theta0, ts)
    alone = ide.solve(rmsprop(0.1, 0.9), QUADRATIC, jnp.array([1.0, 2.0, 0.5]), ts)
    np.testing.assert_allclose(path.theta["a"], alone.theta[:, :2], rtol=0, atol=1e-11)
    np.testing.assert_allclose(path.theta["b"][0], alone.theta[:, 2], rtol=0, atol=1e-11)
    assert path.theta["b"][1] == "held"


@pytest.mark.slow
def test_single_precision(float32):
    ts = np.arange(51.0)
    path = ide.solve(rmsprop(0.1, 0.9), QUADRATIC, 1.0, ts)
    assert path.theta.dtype == jnp.float32
    with jax.enable_x64(True):
        precise = ide.solve(rmsprop(0.1, 0.9), QUADRATIC, 1.0, ts)
    np.testing.assert_allclose(path.theta, precise.theta, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_many_parameters_are_solved_without_matrices():
    """Each component of a sum of parabolas moves as it would alone."""
    starts, ts = jnp.linspace(0.5, 1.5, 60), np.arange(13.0)
    method = ide.FixedPoint(elements=24)
    solve = lambda rate, theta0: ide.solve(rmsprop(rate, 0.9), QUADRATIC, theta0, ts, method=method)
    path = solve(0.1, starts)
    check_errors(path)
    for i in (0, 59):
        alone = solve(0.1, starts[i])
        np.testing.assert_allclose(path.theta[:, i], alone.theta, rtol=0, atol=1e-8)
    slope = jax.grad(lambda rate: jnp.sum(solve(rate, starts).theta[-2]))(0.1)
    h = 1e-5
    wanted = jnp.sum(solve(0.1 + h, starts).theta[-2] - solve(0.1 - h, starts).theta[-2]) / (2 * h)
    np.testing.assert_allclose(slope, wanted, rtol=1e-6)
