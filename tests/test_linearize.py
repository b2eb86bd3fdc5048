"""Spectra against characteristic polynomials by hand, and against dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import Bowl
from jax.flatten_util import ravel_pytree

import idemodels as ide
from idemodels import analysis
from idemodels._analysis.lanczos import leading

ALPHA, W, L2 = 0.01, 0.3, 0.2
CURVATURE = {1: np.array([2.0]), 5: np.array([1.0, 3.0, 10.0, 30.0, 100.0])}
MODELS = {
    "adam": ide.Adam(ALPHA, b1=0.9),
    "adam-matched": ide.Adam(ALPHA, b1=0.5, rate="matched"),
    "adam-b1-0": ide.Adam(ALPHA, b1=0.0),
    "adamw-l2": ide.Adam(ALPHA, l2=L2, weight_decay=W),
    "rmsprop": ide.RMSProp(ALPHA, 0.9),
    "rmsprop-causal": ide.RMSProp(ALPHA, 0.9, reading="causal"),
    "adagrad": ide.AdaGrad(ALPHA),
    "adagrad-causal": ide.AdaGrad(ALPHA, reading="causal"),
    "second-order": ide.SecondOrderAdam(ALPHA, b1=0.9),
}


def roots(*coefficients):
    """Of polynomials, row by row."""
    return np.concatenate([np.roots(c) for c in np.stack(coefficients, axis=1)])


def by_hand(model, h):
    """Eigenvalues of equation and step map, one curvature of P^-1 H after another."""
    one = np.ones_like(h)
    w = float(model.weight_decay)
    if isinstance(model, ide.RMSProp | ide.AdaGrad):
        return -ALPHA * h, 1 - ALPHA * h
    b1 = float(model.b1)
    shift = 1 - ALPHA * w
    discrete = roots(one, -(shift + b1) + ALPHA * (1 - b1) * h, shift * b1 * one)
    if isinstance(model, ide.SecondOrderAdam):
        d = 1 - b1  # with x = lambda^2 / 2 + lambda: x (x + d) + alpha d h = 0
        x = roots(one, d * one, ALPHA * d * h).astype(complex)
        return np.concatenate([-1 + np.sqrt(1 + 2 * x), -1 - np.sqrt(1 + 2 * x)]), discrete
    r = float(model._b1.rate)
    return roots(one, (r + ALPHA * w) * one, ALPHA * r * (h + w)), discrete


def close(found, wanted):
    """As sets; a double root is known to half of the digits only."""
    ordered = lambda x: np.sort_complex(np.round(np.asarray(x, complex), 12))
    return np.max(np.abs(ordered(found) - ordered(wanted)))


FEW = ("adam", "adamw-l2", "rmsprop", "adagrad", "second-order")
SPECTRA = [(name, 5) for name in FEW] + [
    pytest.param(name, dim, marks=pytest.mark.slow)
    for name in MODELS
    for dim in (1, 5)
    if dim == 1 or name not in FEW
]


@pytest.mark.parametrize(("name", "dim"), SPECTRA)
def test_spectra_on_a_quadratic_are_those_by_hand(name, dim):
    model, curvature = MODELS[name], CURVATURE[dim]
    theta, minimum = np.full(dim, 2.0), np.linspace(0.0, 1.0, dim)
    g = curvature * (theta - minimum) + 0.5 * float(model.l2) * theta
    v = np.geomspace(0.5, 4.0, dim)
    adagrad = isinstance(model, ide.AdaGrad)
    given = {"G": jnp.asarray(v)} if adagrad else None
    found = analysis.linearize(
        model, ide.Quadratic(curvature, minimum), jnp.asarray(theta), moments=given
    )
    # the steady second moment is g^2; AdaGrad's closure adds the gradient now to the sum
    steady = (v + g * g if model.reading == "closure" else v) if adagrad else g * g
    H = curvature + 0.5 * float(model.l2)
    h = np.sort(H / (np.sqrt(steady) + 1e-8))[::-1]
    equation, discrete = by_hand(model, h)
    np.testing.assert_allclose(found.sharpness, np.sort(H)[::-1], rtol=1e-12)
    np.testing.assert_allclose(found.preconditioned, h, rtol=1e-12)
    assert close(found.equation, equation) < 1e-8
    assert close(found.discrete, discrete) < 1e-8
    assert found.complete
    assert found.growth == pytest.approx(equation.real.max(), abs=1e-8)
    assert found.radius == pytest.approx(np.abs(discrete).max(), abs=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adam", "adamw-l2", "rmsprop", "second-order"])
def test_the_step_map_is_that_of_optax_at_rest(name):
    model, curvature = MODELS[name], CURVATURE[5]
    tx, v = model.optax(), np.geomspace(0.5, 4.0, 5)
    rest = jnp.zeros(5)
    # optax multiplies v by its decay before it reads it
    decay = float(model.decay if isinstance(model, ide.RMSProp) else model.b2)
    state = optax.tree_utils.tree_set(tx.init(rest), nu=jnp.asarray(v / decay))
    if not isinstance(model, ide.RMSProp):
        state = optax.tree_utils.tree_set(state, count=jnp.asarray(10**6, jnp.int32))

    def step(z):
        theta, m = z[:5], z[5:]
        at = state if m.size == 0 else optax.tree_utils.tree_set(state, mu=m)
        with jax.numpy_dtype_promotion("standard"):
            updates, new = tx.update(jnp.asarray(curvature) * theta, at, theta)
            kept = optax.tree_utils.tree_get(new, "mu") if m.size else m
            return jnp.concatenate([theta + updates, kept])

    size = 5 if isinstance(model, ide.RMSProp) else 10
    wanted = np.linalg.eigvals(np.asarray(jax.jacfwd(step)(jnp.zeros(size))))
    # the papers' l2 is a part of the gradient there as well; RMSProp's closure reads decay * v
    read = v / decay if isinstance(model, ide.RMSProp) else v
    found = analysis.linearize(
        model, ide.Quadratic(curvature, 0.0), rest, moments={"v": jnp.asarray(read)}
    )
    assert close(found.discrete, wanted) < 1e-8


def frozen(h, b1, alpha):
    """Heavy ball on a parabola of curvature h, by optax: what Adam is at a held second moment."""
    tx = optax.chain(optax.ema(b1, debias=False), optax.scale(-alpha))
    path = ide.run_discrete(tx, ide.Quadratic(h, 0.0), 1.0, 400, ts=[0, 200, 400])
    return np.abs(np.asarray(path.theta))


@pytest.mark.parametrize("b1", [0.0, 0.5, 0.9])
def test_the_threshold_parts_runs_that_converge_from_those_that_diverge(b1):
    alpha, P = 0.05, 0.7
    model = ide.Adam(alpha, b1=b1)
    point = dict(moments={"v": jnp.asarray((P - 1e-8) ** 2)})
    found = analysis.linearize(model, ide.Quadratic(1.0, 0.0), 1.0, **point)
    assert found.threshold == pytest.approx((2 + 2 * b1) / ((1 - b1) * alpha), rel=1e-9)
    for factor, grows in ((0.995, False), (1.005, True)):
        h = factor * found.threshold * P
        at = analysis.linearize(model, ide.Quadratic(h, 0.0), 1.0, **point)
        assert (at.radius > 1) is grows
        assert at.growth < 0  # the equation is stable on both sides
        _, half, whole = frozen(h / P, b1, alpha)
        assert (whole > half > 1.0) if grows else (whole < half < 1.0)


@pytest.mark.slow
def test_rmsprop_breaks_at_two_over_alpha_whatever_its_memory():
    for decay in (0.5, 0.999):
        found = analysis.linearize(ide.RMSProp(0.1, decay), ide.Quadratic(), 1.0)
        assert found.threshold == pytest.approx(20.0, rel=1e-9)


def own(direction, memories=None, **options):
    m = ide.Memory(ide.Exponential(-np.log(0.9)), lambda g: g, debias=True)
    v = ide.Memory(ide.Exponential(-np.log(0.999)), lambda g: g**2, debias=True)
    return ide.MemoryModel(memories or {"m": m, "v": v}, direction, ALPHA, **options)


def as_adam(s, theta, g, moments):
    root = lambda m, v: m / (jnp.sqrt(v) + 1e-8)
    return jax.tree.map(root, moments["m"], moments["v"])


def mixed(s, theta, g, moments):
    """Each parameter moves by its neighbour's moment too: no diagonal."""
    d = as_adam(s, theta, g, moments)
    return jax.tree.map(lambda d: d + 0.1 * jnp.roll(d, 1), d)


def test_a_model_of_ones_own_has_the_spectrum_of_the_same_adam():
    theta, objective = jnp.full(5, 2.0), ide.Quadratic(CURVATURE[5], 0.0)
    found = analysis.linearize(own(as_adam, weight_decay=W), objective, theta)
    adam = ide.Adam(ALPHA, rate="matched", weight_decay=W)
    wanted = analysis.linearize(adam, objective, theta)
    np.testing.assert_allclose(found.preconditioned, wanted.preconditioned, rtol=1e-12)
    assert close(found.equation, wanted.equation) < 1e-12
    assert close(found.discrete, wanted.discrete) < 1e-12
    assert found.threshold == pytest.approx(wanted.threshold)
    assert found.held.keys() == {"v"}


def test_a_direction_without_a_profile_has_the_spectrum_of_its_whole_jacobian():
    model, theta = own(mixed), jnp.full(5, 2.0)
    objective = ide.Quadratic(CURVATURE[5], 0.0)
    found = analysis.linearize(model, objective, theta)
    assert found.preconditioned is None
    assert found.threshold is None
    q = 1 / (2 * CURVATURE[5] + 1e-8)
    D = (np.eye(5) + 0.1 * np.roll(np.eye(5), 1, axis=0)) * q[None]
    r, H = -np.log(0.9), np.diag(CURVATURE[5])
    M = np.block([[np.zeros((5, 5)), -ALPHA * D], [r * H, -r * np.eye(5)]])
    assert close(found.equation, np.linalg.eigvals(M)) < 1e-10
    step = np.block(
        [[np.eye(5) - 0.1 * ALPHA * D @ H, -0.9 * ALPHA * D], [0.1 * H, 0.9 * np.eye(5)]]
    )
    assert close(found.discrete, np.linalg.eigvals(step)) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adamw", "own"])
def test_beyond_400_parameters_the_leading_ones_are_found_by_products(kind):
    bowl = Bowl(420)
    options = dict(weight_decay=W)
    model = (
        ide.Adam(ALPHA, rate="matched", **options) if kind == "adamw" else own(as_adam, **options)
    )
    v = {"w": jnp.linspace(0.5, 2.0, 420).reshape(-1, 2), "name": "held"}
    found = analysis.linearize(model, bowl, bowl.theta0, moments={"v": v}, count=5)
    assert not found.complete
    np.testing.assert_allclose(found.sharpness, bowl.curvatures()[:5], rtol=1e-10)
    flat, unravel = ravel_pytree(bowl.theta0["w"])
    H = np.asarray(jax.hessian(lambda x: bowl({"w": unravel(x)}))(flat))
    root = 1 / np.sqrt(np.sqrt(np.linspace(0.5, 2.0, 420)) + 1e-8)
    dense = np.linalg.eigvalsh(root[:, None] * H * root[None])[::-1][:5]
    np.testing.assert_allclose(found.preconditioned, dense, rtol=1e-10)
    equation, discrete = by_hand(ide.Adam(ALPHA, rate="matched", weight_decay=W), dense)
    assert close(found.equation, equation) < 1e-8
    assert close(found.discrete, discrete) < 1e-8


@pytest.mark.slow
def test_lanczos_finds_the_top_of_the_digits_network():
    digits = ide.DigitsMLP()
    model = ide.Adam(1e-3)
    run = ide.run_discrete(model, digits, digits.theta0, 100, ts=[0, 100])
    theta = jax.tree.map(lambda x: x[-1], run.theta)
    v = jax.tree.map(lambda x: x[-1], run.moments["v"])
    found = analysis.linearize(model, digits, theta, moments={"v": v}, s=100)
    flat, unravel = ravel_pytree(theta)
    gradient = lambda x: ravel_pytree(jax.grad(digits)(unravel(x)))[0]
    H = np.asarray(jax.jit(jax.jacfwd(gradient))(flat))
    dense = np.linalg.eigvalsh(H)[::-1][:5]
    np.testing.assert_allclose(found.sharpness, dense, rtol=1e-6)
    P = (1 - 0.9**100) * (np.sqrt(np.asarray(ravel_pytree(v)[0]) / (1 - 0.999**100)) + 1e-8)
    root = 1 / np.sqrt(P)
    dense = np.linalg.eigvalsh(root[:, None] * H * root[None])[::-1][:5]
    np.testing.assert_allclose(found.preconditioned, dense, rtol=1e-6)


@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_lanczos_finds_close_and_equal_eigenvalues_and_an_invariant_start(count):
    values = np.concatenate([[5.0, 5.0, 4.999], np.linspace(-7.0, 4.0, 97)])
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(100, 100)))[0]
    A = jnp.asarray(Q * values @ Q.T)
    start = jnp.asarray(Q[:, 50])  # an eigenvector: the first space is exhausted at once
    found = leading(lambda x: A @ x, start, count, tol=1e-10)
    wanted = np.sort(values)[::-1][:count]
    np.testing.assert_allclose(found.values, wanted, rtol=1e-9)
    residual = np.asarray(found.vectors @ A) - wanted[:, None] * np.asarray(found.vectors)
    assert np.abs(residual).max() < 1e-7
    assert found.products < 3000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(count=0), "Argument `count` must be a positive integer, but is 0."),
        (dict(s=0.0), "Argument `s` must be a positive number, since memories are empty at 0"),
        (dict(s="x"), "Argument `s` must be a positive number"),
        (dict(moments={"u": jnp.ones(5)}), "names of the model's memories, 'm', 'v', but has 'u'."),
        (dict(moments={"v": jnp.ones(4)}), "must have floating arrays like `theta`, .*'v' has"),
        (dict(model=ide.AdaGrad(0.1)), "must have 'G', a memory that never comes to rest"),
        (
            dict(model=ide.Adam(optax.constant_schedule(0.1))),
            "`s` must be the optimizer step .* since its learning rate is a schedule, but is None",
        ),
        (
            dict(model=ide.AdaGrad(0.1, lr_decay=0.1), moments={"G": jnp.ones(5)}),
            r"since its learning rate decays \(`lr_decay`\)",
        ),
        (
            dict(model=own(as_adam, {"m": ide.Memory(ide.PowerLaw(0.5), lambda g: g)})),
            "kernels with finitely many states .* 'm' has PowerLaw",
        ),
        (
            dict(model=own(as_adam, {"m": ide.Memory(ide.Constant(), lambda g: g, debias=True)})),
            "since the memory 'm' never forgets",
        ),
        (
            dict(model=own(as_adam, {"m": ide.Memory(ide.Exponential(0.1), jnp.cbrt)})),
            "must have features with a finite slope at g = 0, but that of 'm' is",
        ),
    ],
)
def test_what_cannot_be_linearised_is_told_by_name(arguments, said):
    given = dict(model=ide.Adam(0.1), objective=ide.Quadratic(CURVATURE[5], 0.0))
    given |= dict(theta=jnp.ones(5)) | arguments
    with pytest.raises(ValueError, match=said):
        analysis.linearize(**given)


@pytest.mark.slow
def test_a_large_model_without_a_profile_and_a_hessian_that_is_not_symmetric_are_refused():
    bowl = Bowl(402)
    with pytest.raises(ValueError, match="diagonal, not negative and of one profile"):
        analysis.linearize(own(mixed), bowl, bowl.theta0)
    skewed = own(as_adam, transform=lambda g: jax.tree.map(lambda x: jnp.roll(x, 1), g))
    with pytest.raises(ValueError, match="must not transform the gradient"):
        analysis.linearize(skewed, bowl, bowl.theta0)


def test_an_oscillation_may_break_before_the_flip():
    memories = {
        "m": ide.Memory(ide.SecondOrder(0.9), lambda g: g),
        "v": ide.Memory(ide.Exponential(0.1), lambda g: g**2),
    }
    model, v = own(as_adam, memories), {"v": jnp.ones(())}
    found = analysis.linearize(model, ide.Quadratic(1.0, 0.0), 1.0, moments=v)
    for factor, grows in ((0.995, False), (1.005, True)):
        h = factor * found.threshold
        at = analysis.linearize(model, ide.Quadratic(h, 0.0), 1.0, moments=v)
        assert (at.radius > 1) is grows
        assert np.all(np.abs(np.imag(at.discrete[np.abs(at.discrete) == at.radius])) > 0)
