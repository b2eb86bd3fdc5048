"""Reverse mode by making accepted steps again, against diffrax's adjoint and closed forms."""

import functools

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import idemodels as ide
from idemodels._method.replay import Replay

P = {"w": 1.3, "k": 2.0, "y": (0.3, 0.5), "c": 0.7}
TS = jnp.linspace(0.0, 4.0, 40)
# An explicit solver that keeps its last stage, one that is implicit, and one with neither.
SOLVERS = {
    "Tsit5": (dfx.Tsit5(), 1e-7),
    "Kvaerno3": (dfx.Kvaerno3(root_finder=dfx.VeryChord(rtol=1e-10, atol=1e-10)), 1e-5),
    "Heun": (dfx.Heun(), 1e-5),
}


def parameters():
    return jax.tree.map(jnp.asarray, P | {"y": jnp.asarray(P["y"])})


def outcome(p, adjoint, name="Tsit5", event=None):
    """A sum over what is saved at times and at the end, and the number of accepted steps."""
    solver, rtol = SOLVERS[name]
    oscillate = lambda t, y, args: (p["w"] * y[1] * jnp.cos(t), -p["k"] * y[0] - 0.1 * y[1])
    solution = dfx.diffeqsolve(
        dfx.ODETerm(oscillate),
        solver,
        TS[0],
        TS[-1],
        0.1,
        (p["y"], jnp.ones(2)),
        saveat=dfx.SaveAt(
            subs=[
                dfx.SubSaveAt(ts=TS, fn=lambda t, y, args: p["c"] * y[0] * y[1]),
                dfx.SubSaveAt(t1=True),
            ]
        ),
        stepsize_controller=dfx.PIDController(rtol=rtol, atol=rtol),
        adjoint=adjoint,
        event=event,
        max_steps=4096,
    )
    weights = jnp.sin(jnp.arange(TS.size))[:, None]
    value = jnp.sum(weights * solution.ys[0]) + jnp.sum(solution.ys[1][0] ** 2)
    return value, solution.stats["num_accepted_steps"]


def gradient(adjoint, **options):
    return jax.jit(jax.grad(lambda p: outcome(p, adjoint, **options), has_aux=True))


@functools.cache
def by_diffrax(name="Tsit5"):
    return gradient(dfx.RecursiveCheckpointAdjoint(), name=name)


def assert_equal(a, b, rtol):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol), a, b)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("rows", [5, 16, 4096])
def test_it_is_the_derivative_by_diffrax(name, rows):
    made, steps = gradient(Replay(rows), name=name)(parameters())
    assert steps > 16  # so that some states are not kept
    assert_equal(made, by_diffrax(name)(parameters())[0], 1e-11)


def test_lanes_are_differentiated_as_each_alone():
    lanes = jax.tree.map(lambda x: jnp.stack([x, 1.5 * x, 0.2 * x]), parameters())
    together, steps = jax.jit(jax.vmap(gradient(Replay(12))))(lanes)
    assert len(set(steps.tolist())) == 3
    each = [by_diffrax()(jax.tree.map(lambda x, i=i: x[i], lanes))[0] for i in range(3)]
    assert_equal(together, jax.tree.map(lambda *x: jnp.stack(x), *each), 1e-10)


def test_an_event_is_differentiated_by_diffrax():
    event = dfx.Event(lambda t, y, args, **kwargs: y[1][0] + 0.2)
    made, _ = gradient(Replay(16), event=event)(parameters())
    diffrax, _ = gradient(dfx.RecursiveCheckpointAdjoint(16), event=event)(parameters())
    assert_equal(made, diffrax, 0)


def test_a_closed_form():
    def end(k):
        decay = dfx.ODETerm(lambda t, y, args: -k * y * args)
        given = decay, dfx.Tsit5(), 0.0, 1.0, 0.1, jnp.ones(3), jnp.ones(3)
        controller = dfx.PIDController(rtol=1e-9, atol=1e-9)
        options = {"stepsize_controller": controller, "adjoint": Replay(8)}
        return dfx.diffeqsolve(*given, **options).ys.sum()

    np.testing.assert_allclose(jax.grad(end)(0.7), -3 * np.exp(-0.7), rtol=1e-7)


def _path(theta_loss, learning_rate=0.1, args=None):
    path = ide.solve(ide.Adam(learning_rate), theta_loss, 1.0, jnp.arange(11.0), args=args)
    return path.loss[-1]


def test_an_objective_may_know_of_what_is_differentiated():
    """Theta does not depend on the scale of the loss, which is linear in it."""
    known = lambda w: _path(lambda theta: w * theta**2 / 2)
    given = lambda w: _path(lambda theta, w: w * theta**2 / 2, args=w)
    loss, slope = jax.value_and_grad(known)(1.3)
    np.testing.assert_allclose(slope, loss / 1.3, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(given)(1.3), slope, rtol=1e-12)


def test_a_time_in_between_has_a_derivative():
    steps = lambda t: jnp.stack([0.0, t, 2.0 * t, 10.0])
    at = lambda t, adjoint=None: ide.solve(
        ide.Adam(0.1), ide.Quadratic(), 1.0, steps(t), adjoint=adjoint
    ).theta[1:3]
    made = jax.jacrev(at)(3.3)
    forwards = jax.jacfwd(lambda t: at(t, dfx.ForwardMode()))(3.3)
    np.testing.assert_allclose(made, forwards, rtol=1e-10)
    difference = (at(3.3 + 1e-4) - at(3.3 - 1e-4)) / 2e-4
    np.testing.assert_allclose(made, difference, rtol=1e-3)


def test_a_second_derivative_is_refused_where_no_argument_shows_it():
    known = lambda w: _path(lambda theta: jnp.cosh(w * theta))
    with pytest.raises((TypeError, RuntimeError, ValueError), match="second derivatives"):
        jax.hessian(known)(1.3)


def test_a_gradient_within_a_derivative():
    inner = jax.grad(lambda w: _path(lambda theta, w: w * theta**2 / 2, args=w))
    slope = inner(1.3)
    np.testing.assert_allclose(jax.grad(lambda x: x * inner(1.3))(2.0), slope, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(inner)(1.3), slope, rtol=1e-12)


def test_a_second_gradient_compiles_nothing(caplog):
    loss = lambda theta: theta**2 / 2
    slope = jax.grad(lambda rate: _path(loss, rate))
    slope(0.1)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        slope(0.2)
    assert not [r for r in caplog.records if "XLA compilation" in r.getMessage()]
