"""Kinds of parameters and objectives that are rare, and what is made of them."""

import collections
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import idemodels as ide

HALVES = [jnp.bfloat16, jnp.float16]
TS = np.linspace(0.0, 20.0, 5)


@pytest.fixture(autouse=True)
def user_promotion():
    """Half precision is met where types mix; the suite's strict promotion refuses that itself."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def bowl(theta):
    return sum(jnp.sum((x - 1.0) ** 2) for x in jax.tree.leaves(theta))


def leaves(*dtypes):
    return {name: jnp.zeros(2, dtype) for name, dtype in zip("ab", dtypes, strict=False)}


MIXED = {
    "bfloat16": (leaves(jnp.bfloat16), jnp.float32),
    "float16": (leaves(jnp.float16), jnp.float32),
    "both halves": (leaves(jnp.bfloat16, jnp.float16), jnp.float32),
    "half and single": (leaves(jnp.bfloat16, jnp.float32), jnp.float32),
    "half and double": (leaves(jnp.float16, jnp.float64), jnp.float64),
}


@pytest.mark.parametrize(("theta0", "dtype"), MIXED.values(), ids=MIXED)
def test_half_precision_becomes_the_widest_type_and_single(theta0, dtype):
    y = ide.Equation(ide.Adam(0.05), bowl).init(theta0)
    assert {x.dtype for x in jax.tree.leaves((y.theta, y.memory))} == {jnp.dtype(dtype)}


def test_half_precision_is_solved_in_single():
    path = ide.solve(ide.Adam(0.05), bowl, jnp.zeros(2, jnp.bfloat16), TS)
    assert path.theta.dtype == jnp.float32
    right = ide.solve(ide.Adam(0.05), bowl, jnp.zeros(2), TS).theta
    # the tolerance of two solves, 1e-6 a step, over some tens of them
    np.testing.assert_allclose(path.theta, right, rtol=0, atol=1e-4)


MODELS = {
    "adam": ide.Adam(0.05, l2=0.1, weight_decay=0.01),
    "rmsprop": ide.RMSProp(0.05),
    "adagrad": ide.AdaGrad(0.05),
    "memories": ide.MemoryModel(
        {"m": ide.Memory(ide.Exponential(0.1), lambda g: g, debias=True)},
        lambda s, theta, g, moments: moments["m"],
        0.05,
    ),
}


@pytest.mark.parametrize("dtype", HALVES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_half_precision_runs_as_by_hand(model, dtype):
    theta, tx, steps = jnp.zeros(2, dtype), model.optax(), 300
    run = ide.run_discrete(model, bowl, theta, steps)
    state = tx.init(theta)
    for _ in range(steps):
        updates, state = tx.update(jax.grad(bowl)(theta), state, theta)
        theta = optax.apply_updates(theta, updates)
    assert run.theta.dtype == dtype
    # 257 is no number of bfloat16, and none of these steps may be lost
    np.testing.assert_array_equal(run.ts, np.arange(steps + 1))
    # a compiled step rounds less often; a few units in the last place, of numbers around 1
    ulp = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(run.theta[-1], float), 1.0 * theta, rtol=0, atol=4 * ulp)
    assert bool(run.result == ide.RESULTS.successful)


def test_half_precision_is_compared_with_its_equation():
    model, theta0 = ide.Adam(0.05), jnp.zeros(2, jnp.bfloat16)
    run = ide.run_discrete(model, bowl, theta0, 20, ts=TS)
    found = ide.compare(ide.solve(model, bowl, theta0, TS), run)
    assert found.error.dtype == found.loss_gap.dtype == jnp.float32
    assert set(found.moments) == {"m", "v"}
    # the model's own error is of the order of the learning rate, and rounding 1/256
    assert 0 < found.max_error < 0.05
    ratio = ide.analysis.stability(model, bowl, run).ratio
    assert np.isfinite(ratio[1:]).all()


@pytest.mark.parametrize("dtype", [jnp.float8_e4m3fn, jnp.float8_e5m2], ids=["e4m3", "e5m2"])
def test_storage_types_are_refused_by_name(dtype):
    theta0, message = jnp.zeros(2, dtype), "`theta0` must have arrays of float16.*type float8_"
    with pytest.raises(ValueError, match=message):
        ide.solve(ide.Adam(0.1), bowl, theta0, TS)
    with pytest.raises(ValueError, match=message):
        ide.run_discrete(ide.Adam(0.1), bowl, theta0, 3)


class Pair(NamedTuple):
    a: jax.Array


@jax.tree_util.register_pytree_with_keys_class
class Fresh:
    """A module whose structure equals no other one's, as those that carry identities have it."""

    def __init__(self, a):
        self.a = a

    def tree_flatten_with_keys(self):
        return [(jax.tree_util.GetAttrKey("a"), self.a)], object()

    @classmethod
    def tree_unflatten(cls, data, children):
        return cls(*children)


def path_of(theta):
    return ide.Trajectory.from_arrays(np.arange(2.0), theta, {"m": theta})


def test_arrays_are_compared_by_their_paths():
    rows = jnp.arange(4.0).reshape(2, 2)
    one = path_of({"b": rows, "a": 0 * rows})
    two = path_of(collections.OrderedDict(b=rows + 1, a=0 * rows))
    assert ide.compare(one, two).max_error == 1.0
    found = ide.compare(path_of(Fresh(rows)), path_of(Fresh(rows + 2)))
    assert found.max_error == 2.0
    assert found.moments["m"].max_error == 2.0


APART = {
    "name": ({"b": jnp.ones((2, 1))}, r"only `continuous` has theta\['a'\]\.$"),
    "more": ({"a": jnp.ones((2, 1)), "b": jnp.ones(2)}, r"only `discrete` has theta\['b'\]\.$"),
    "shape": ({"a": jnp.ones((2, 3))}, r"theta\['a'\] has the shapes \(2, 1\) and \(2, 3\)\.$"),
    "kind": (Pair(jnp.ones((2, 1))), r"only `continuous` has theta\['a'\]\.$"),
}


@pytest.mark.parametrize(("theta", "message"), APART.values(), ids=APART)
def test_the_first_difference_of_two_structures_is_told(theta, message):
    with pytest.raises(ValueError, match=message):
        ide.compare(path_of({"a": jnp.ones((2, 1))}), path_of(theta))
