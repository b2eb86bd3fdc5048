"""Parameters in several arrays are solved as one."""

import dataclasses
from typing import ClassVar

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import idemodels as ide

TS = np.linspace(0.0, 12.0, 5)
# one leg: its program is small
TIGHT = ide.Markov(dfx.Dopri8(), rtol=1e-10, atol=1e-13)
MODELS = (
    ide.Adam(0.05),
    ide.RMSProp(0.05, 0.9, reading="causal"),
    pytest.param(ide.SecondOrderAdam(0.05), marks=pytest.mark.slow),
)


def _several(n: int = 3) -> dict[str, jax.Array]:
    rng = np.random.default_rng(1)
    return {f"w{i}": jnp.asarray(rng.normal(size=(2, i + 1))) for i in range(n)}


def _coupled(theta: dict[str, jax.Array]) -> jax.Array:
    total = sum(jnp.sum(x) for x in theta.values())
    return sum(jnp.sum(jnp.cosh(x)) for x in theta.values()) + 0.3 * total**2


def _flat(tree) -> jax.Array:
    return jnp.concatenate([x.reshape(len(TS), -1) for x in jax.tree.leaves(tree)], axis=1)


@pytest.mark.parametrize("model", MODELS, ids=lambda m: type(m).__name__)
def test_several_arrays_have_the_path_of_one(model):
    theta0 = _several()
    sizes = np.cumsum([x.size for x in theta0.values()])[:-1]

    def of_one(theta):
        parts = jnp.split(theta, sizes)
        return _coupled({k: p.reshape(x.shape) for (k, x), p in zip(theta0.items(), parts)})  # noqa: B905

    one = jnp.concatenate([x.ravel() for x in theta0.values()])
    many = ide.solve(model, _coupled, theta0, TS, method=TIGHT)
    single = ide.solve(model, of_one, one, TS, method=TIGHT)
    assert jax.tree.structure(many.theta) == jax.tree.structure(theta0)
    np.testing.assert_allclose(_flat(many.theta), single.theta, rtol=1e-7, atol=1e-8)
    for name in many.moments:
        np.testing.assert_allclose(_flat(many.moments[name]), single.moments[name], atol=1e-7)


def test_a_program_does_not_grow_with_the_number_of_arrays():
    def lines(n):
        theta0 = {f"w{i}": jnp.ones(2) for i in range(n)}
        loss = lambda theta: jnp.sum(jnp.cosh(jnp.stack(list(theta.values()))))
        given = ide.Adam(0.1), loss
        run = lambda theta: ide.solve(*given, theta, TS, throw=False).theta
        return jax.jit(run).lower(theta0).as_text().count("\n")

    assert lines(12) < 1.5 * lines(2)


class _Normalized(ide.Adam):
    """Divided by the norm of each array's own gradient: not of single numbers."""

    def fraction(self, s, theta, g, moments):
        del s, theta, moments
        return g, jax.tree.map(lambda g: jnp.full_like(g, jnp.linalg.norm(g)), g)


def test_a_class_that_looks_at_whole_arrays_keeps_them():
    model = _Normalized(0.05)
    assert not model.is_elementwise
    assert ide.Adam(0.05).is_elementwise
    theta0 = {"a": jnp.array([3.0, 1.0]), "b": jnp.array([0.5, -2.0])}
    loss = lambda x: jnp.sum(jnp.cosh(x))
    both = lambda theta: loss(theta["a"]) + loss(theta["b"])
    path = ide.solve(model, both, theta0, TS, method=TIGHT)
    for name, x in theta0.items():
        alone = ide.solve(model, loss, x, TS, method=TIGHT)
        np.testing.assert_allclose(path.theta[name], alone.theta, rtol=1e-8)


class _Passed(ide.Adam):
    """A subclass that says that it is of single numbers."""

    elementwise: ClassVar[bool] = True


def test_a_class_says_itself_that_it_is_of_single_numbers():
    assert _Passed(0.05).is_elementwise


def test_what_is_kept_and_where_a_path_goes_on_are_as_given():
    theta0 = _several(2) | {"steps": 3, "none": None}
    loss = lambda theta: _coupled({k: theta[k] for k in ("w0", "w1")}) * theta["steps"]
    model = ide.Adam(0.05)
    path = ide.solve(model, loss, theta0, TS, method=TIGHT)
    assert path.last.theta["steps"] == 3
    assert path.last.theta["w1"].shape == (2, 2)
    assert path.states.memory["m"]["w1"].shape == (len(TS), 1, 2, 2)
    on = ide.solve(model, loss, theta0, TS[2:], method=TIGHT, state0=path.state_at(2))
    np.testing.assert_allclose(on.theta["w1"][-1], path.theta["w1"][-1], rtol=1e-7)

    def save(s, theta, moments):
        assert theta["steps"] == 3
        return s, jnp.sum(theta["w0"]), moments["m"]["w1"]

    kept = ide.solve(model, loss, theta0, TS, method=TIGHT, save=save).theta
    np.testing.assert_allclose(kept[1], jnp.sum(path.theta["w0"], axis=(1, 2)), rtol=1e-9)
    np.testing.assert_allclose(kept[2], path.moments["m"]["w1"], rtol=1e-8)


@pytest.mark.parametrize("mode", [pytest.param("reverse", marks=pytest.mark.slow), "forward"])
def test_derivatives_are_those_of_one_array(mode):
    theta0 = _several(2)

    def final(rate, scale):
        start = jax.tree.map(lambda x: scale * x, theta0)
        adjoint = None if mode == "reverse" else dfx.ForwardMode()
        model = ide.Adam(rate)
        path = ide.solve(model, _coupled, start, TS, method=TIGHT, adjoint=adjoint)
        return path.loss[-1]

    take = jax.grad if mode == "reverse" else jax.jacfwd
    found = jax.jit(take(final, argnums=(0, 1)))(0.05, 1.0)
    h, run = 1e-5, jax.jit(final)
    by_rate = (run(0.05 + h, 1.0) - run(0.05 - h, 1.0)) / (2 * h)
    by_scale = (run(0.05, 1.0 + h) - run(0.05, 1.0 - h)) / (2 * h)
    np.testing.assert_allclose(found, (by_rate, by_scale), rtol=1e-5)


class _Kept(ide.Adam):
    """Adam, which keeps its arrays."""


def test_each_array_has_its_own_unit():
    """The steps are those that arrays apart would have, also where their gradients differ."""
    theta0 = {"large": jnp.array([1.0, 2.0]), "small": jnp.array([1.0, -1.0])}
    loss = lambda t: jnp.sum(t["large"] ** 2) + 1e-3 * jnp.sum(jnp.cosh(3 * t["small"]))
    method = ide.Markov(dfx.Tsit5(), rtol=1e-6, atol=1e-4)
    paths = [
        ide.solve(kind(0.02, 0.5, 0.6), loss, theta0, TS, method=method)
        for kind in (ide.Adam, _Kept)
    ]
    one, apart = (int(path.stats["num_steps"]) for path in paths)
    assert one == apart
    np.testing.assert_allclose(paths[0].theta["small"], paths[1].theta["small"], rtol=1e-10)


def test_an_event_sees_the_arrays_as_given():
    theta0 = _several(2)

    def low(s, y, args, **kwargs):
        del s, args, kwargs
        return jnp.sum(jnp.abs(y.theta["w1"])) - 0.5

    method = dataclasses.replace(TIGHT, event=dfx.Event(low, direction=False))
    path = ide.solve(ide.Adam(0.05), _coupled, theta0, np.linspace(0.0, 200.0, 3), method=method)
    assert path.result == ide.RESULTS.event_occurred
    assert float(path.last.s) < 200.0
    assert eqx.tree_equal(jax.tree.structure(path.last.theta), jax.tree.structure(theta0))
