"""Objectives with a derivative of their own, which may have no forward mode, or no second one."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import idemodels as ide
from idemodels._second import has_forward, has_jacobian, jacobian, linearized, pushed

CURVATURE = np.array([2.0, 6.0])
X, V = jnp.array([0.5, -2.0]), jnp.array([1.0, 3.0])


def bowl(x):
    return jnp.sum(0.5 * CURVATURE * (x - 1.0) ** 2)


def slope(x):
    return CURVATURE * (x - 1.0)


def with_rule(value, backward):
    """`value`, with the gradient that `backward` computes."""
    f = jax.custom_vjp(value)
    f.defvjp(lambda x: (f(x), x), lambda x, cotangent: (cotangent * backward(x),))
    return f


def called(f, shape):
    """`f` on the host, as a simulator is that has its own gradient."""
    out = jax.ShapeDtypeStruct(shape, np.float64)
    return lambda x: jax.pure_callback(f, out, x, vmap_method="sequential")


def looped(x):
    """`slope` in a loop of unknown length."""
    more = lambda c: c[0] < 1
    return jax.lax.while_loop(more, lambda c: (c[0] + 1, c[1] + slope(x)), (0, 0 * x))[1]


ruled = with_rule(bowl, slope)
CUBE = with_rule(lambda x: jnp.sum(x**3), lambda x: 3.0 * x**2)
# whether the gradient has forward mode, and whether it has any
OBJECTIVES = {
    "plain": (bowl, True, True),
    "rule": (ruled, False, True),
    "value by callback": (with_rule(called(bowl, ()), slope), False, True),
    "inside": (lambda x: jnp.sin(CUBE(x)), False, True),
    "gradient by callback": (with_rule(called(bowl, ()), called(slope, (2,))), False, False),
    "gradient in a loop": (with_rule(bowl, looped), False, False),
}
BY_CALLBACK = OBJECTIVES["gradient by callback"][0]


@pytest.mark.parametrize(("loss", "forward", "any_mode"), OBJECTIVES.values(), ids=OBJECTIVES)
def test_which_derivatives_a_gradient_has(loss, forward, any_mode):
    gradient = jax.grad(loss)
    assert has_forward(gradient, X) == forward
    assert has_jacobian(gradient, X) == any_mode
    if not any_mode:
        for attempt in (lambda: jacobian(gradient, X), lambda: pushed(gradient, X, V)):
            with pytest.raises(ValueError, match="`objective` must have a gradient that can be"):
                attempt()


def test_derivatives_are_the_same_by_either_mode():
    """Of a gradient that is turned, so that its derivative is not symmetric."""
    turn = jnp.array([[1.0, 2.0], [0.0, -1.0]])
    plain, ours = (lambda x, f=f: turn @ jax.grad(f)(x) for f in (bowl, ruled))
    right = jax.jacfwd(plain)(X)
    np.testing.assert_allclose(jax.jit(lambda x: jacobian(ours, x))(X), right, rtol=1e-15)
    y, push = linearized(ours, X)
    np.testing.assert_allclose(y, plain(X), rtol=1e-15)
    np.testing.assert_allclose(push(V), right @ V, rtol=1e-15)
    np.testing.assert_allclose(pushed(ours, X, V), right @ V, rtol=1e-15)


@pytest.mark.parametrize("kind", [TypeError, ValueError, RuntimeError])
def test_other_errors_are_not_swallowed(kind):
    def broken(x):
        if not isinstance(x, jax.Array):
            raise AssertionError
        raise kind("the user's own")

    for attempt in (jacobian, has_forward, has_jacobian):
        with pytest.raises(kind, match="the user's own"):
            attempt(broken, X)


@pytest.mark.parametrize("loss", [ruled, BY_CALLBACK], ids=["rule", "gradient by callback"])
def test_a_stiff_path_is_solved_without_forward_mode(loss):
    model, ts = ide.RMSProp(0.02), np.linspace(0.0, 1000.0, 6)
    method = ide.Markov(rtol=1e-6, steady_tol=None)
    path = ide.solve(model, loss, jnp.zeros(2), ts, method=method)
    # it is at the minimum, and an implicit method has brought it there
    np.testing.assert_allclose(path.theta[-1], 1.0, rtol=0, atol=1e-6)
    assert path.stats["implicit_from"] < 1000
    right = ide.solve(model, bowl, jnp.zeros(2), ts, method=method)
    # the tolerance of two solves
    np.testing.assert_allclose(path.theta, right.theta, rtol=0, atol=1e-5)


def test_the_spectrum_is_found_without_forward_mode():
    model, moments = ide.RMSProp(0.1), {"v": jnp.ones(2)}
    found = ide.analysis.linearize(model, ruled, jnp.ones(2), moments=moments)
    right = ide.analysis.linearize(model, bowl, jnp.ones(2), moments=moments)
    np.testing.assert_allclose(found.sharpness, CURVATURE[::-1], rtol=1e-12)
    np.testing.assert_allclose(found.equation, right.equation, rtol=1e-12)


def test_where_forward_mode_is_needed_the_objective_is_named():
    ts, named = np.array([0.0, 5.0]), "Argument `objective` must have a gradient with forward mode"
    last = lambda loss, adjoint: (
        lambda x: ide.solve(ide.Adam(0.1), loss, x, ts, adjoint=adjoint).theta[-1]
    )
    for adjoint in (None, dfx.ForwardMode()):
        with pytest.raises(TypeError, match=f"{named}.*custom_vjp.*`adjoint=None`"):
            jax.jacfwd(last(ruled, adjoint))(X)
    with pytest.raises(TypeError, match="Argument `adjoint` must be one for forward mode"):
        jax.jacfwd(last(bowl, None))(X)
    # the gradient alone has forward mode: its rule is made of plain operations
    plain = jax.custom_vjp(bowl)
    plain.defvjp(lambda x: (bowl(x), x), lambda x, cotangent: (cotangent * jax.grad(bowl)(x),))
    loss = lambda x: ide.solve(ide.Adam(0.1), plain, x, ts, adjoint=dfx.ForwardMode()).loss[-1]
    with pytest.raises(TypeError, match=r"`objective` must have forward mode \(jvp\)"):
        jax.jacfwd(loss)(X)
    with pytest.raises(ValueError, match="must have forward mode.*'learning_rate'"):
        ide.sensitivity(ide.Adam(0.1), plain, X, 5)
    with pytest.raises(ValueError, match="must have forward mode.*'learning_rate'"):
        ide.sensitivity(ide.Adam(0.1), ruled, X, 5)


@pytest.mark.parametrize("adjoint", [None, dfx.RecursiveCheckpointAdjoint()], ids=["none", "own"])
def test_reverse_mode_of_reverse_mode_is_told(adjoint):
    method = ide.Markov(dfx.Tsit5())

    def last(rate):
        given = ide.Adam(rate), ide.Quadratic(), 1.0, np.array([0.0, 20.0])
        return ide.solve(*given, method=method, adjoint=adjoint).loss[-1]

    jax.eval_shape(jax.grad(last), 0.01)
    with pytest.raises(RuntimeError, match=r"`adjoint` must be one for second.*jacfwd` twice"):
        jax.eval_shape(jax.grad(jax.grad(last)), 0.01)
