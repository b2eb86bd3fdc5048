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


# Every kind of leaf at once, and the same numbers alone.
_SHARED = jnp.asarray([1.0, 2.0], jnp.float32)
EVERY_KIND = {
    "w": _SHARED,
    "same": _SHARED,
    "empty": jnp.zeros((0, 3), jnp.float32),
    "half": jnp.asarray([0.5], jnp.bfloat16),
    "count": 3,
    "integers": jnp.arange(2),
    "none": None,
}
ALONE = jnp.asarray([1.0, 2.0, 1.0, 2.0, 0.5], jnp.float32)


def of_every_kind(theta):
    assert theta["none"] is None
    assert theta["empty"].shape == (0, 3)
    half = theta["half"].astype(jnp.float32)
    total = jnp.sum(jnp.cosh(theta["w"])) + 2 * jnp.sum(jnp.cosh(theta["same"]))
    return total + theta["integers"][1] * theta["count"] * jnp.sum(jnp.cosh(half))


def of_alone(theta):
    return jnp.sum(jnp.asarray([1.0, 1.0, 2.0, 2.0, 3.0], jnp.float32) * jnp.cosh(theta))


def _moving(theta):
    """The numbers that move, at the last step."""
    if isinstance(theta, dict):
        assert theta["count"] == 3
        assert theta["none"] is None
        assert theta["integers"].shape == (2,)
        theta = jnp.concatenate([theta["w"][-1], theta["same"][-1], theta["half"][-1]])
        return np.asarray(theta)
    return np.asarray(theta[-1])


def _swept(loss, theta0):
    over = {"b2": [0.9, 0.99]}
    found = ide.sweep(ide.Adam(0.05), loss, theta0, 10, over, progress=False)
    if "final_theta" in found:
        return found["final_theta"].values
    names = [f"final_theta.{name}" for name in ("w", "same", "half")]
    return np.concatenate([found[name].values for name in names], axis=1)


STEPS = np.arange(11.0)
FLOW = ide.InterpolatingFlow(optax.adam(0.05), order=1, predict_error=True)
ENTRIES = {
    "solve": lambda *given: _moving(ide.solve(ide.Adam(0.05), *given, STEPS).theta),
    "run_discrete": lambda *given: _moving(ide.run_discrete(ide.Adam(0.05), *given, 10).theta),
    "compare": lambda *given: (
        ide.compare(
            ide.solve(ide.Adam(0.05), *given, STEPS), ide.run_discrete(ide.Adam(0.05), *given, 10)
        ).max_error
    ),
    "sweep": _swept,
    "sensitivity": lambda *given: ide.sensitivity(
        ide.Adam(0.05), *given, 10, wrt=("learning_rate",)
    ).equation.gradient["learning_rate"],
    "flow": lambda *given: ide.solve(FLOW, *given, STEPS).model_error[-1],
}
_LONG = ("compare", "sweep", "sensitivity", "flow")


@pytest.mark.parametrize(
    "entry", [pytest.param(e, marks=pytest.mark.slow) if e in _LONG else e for e in ENTRIES]
)
def test_every_kind_of_leaf_in_one_tree(entry):
    found, alone = ENTRIES[entry](of_every_kind, EVERY_KIND), ENTRIES[entry](of_alone, ALONE)
    np.testing.assert_allclose(found, alone, rtol=2e-3, atol=1e-5)


UNTRACEABLE = {
    "if": lambda step: 0.1 if step < 5 else 0.05,
    "list": lambda step: [0.1, 0.05][step],
    "int": lambda step: [0.1, 0.05][int(step) % 2],
}


@pytest.mark.parametrize("rate", UNTRACEABLE.values(), ids=UNTRACEABLE)
@pytest.mark.parametrize("entry", ["solve", "run_discrete"])
def test_a_schedule_that_asks_for_the_step_is_told_what_to_write(entry, rate):
    last = {"solve": np.arange(9.0), "run_discrete": 8}[entry]
    with pytest.raises(ValueError, match=r"`learning_rate` .*JAX can trace.*`jnp.where\(step"):
        getattr(ide, entry)(ide.Adam(rate), ide.Quadratic(), 1.0, last)


@pytest.mark.parametrize("entry", ["solve", "run_discrete"])
def test_what_is_to_be_written_instead_works(entry):
    rates = jnp.asarray([0.1, 0.05])
    last = {"solve": np.arange(9.0), "run_discrete": 8}[entry]
    run = lambda rate: getattr(ide, entry)(ide.Adam(rate), ide.Quadratic(), 1.0, last).theta[-1]
    looked_up = run(lambda step: rates[(step >= 5).astype(int)])
    np.testing.assert_allclose(looked_up, run(lambda step: jnp.where(step < 5, 0.1, 0.05)))


def test_a_schedule_with_an_error_of_its_own_tells_that():
    def rate(step):
        raise TypeError(f"no such file, at {step.shape}")

    with pytest.raises(TypeError, match="no such file"):
        ide.solve(ide.Adam(rate), ide.Quadratic(), 1.0, np.arange(9.0))


WITH_A_HASH = {
    "number": lambda: ide.Adam(0.1),
    "array": lambda: ide.Adam(jnp.asarray(0.1), b2=jnp.asarray(0.99)),
    "vector": lambda: ide.Quadratic(np.asarray([1.0, 2.0]), np.asarray([-0.0, 1.0])),
    "kernel": lambda: ide.Exponential(0.1),
}


@pytest.mark.parametrize("made", WITH_A_HASH.values(), ids=WITH_A_HASH)
def test_equal_modules_have_the_same_hash(made):
    assert made() == made()
    assert hash(made()) == hash(made())
    assert {made(): "found"}[made()] == "found"


def test_a_hash_is_that_of_the_values():
    assert hash(ide.Adam(0.1)) != hash(ide.Adam(0.2))
    signed = [ide.Quadratic(1.0, np.asarray([zero])) for zero in (0.0, -0.0)]
    assert signed[0] == signed[1]
    assert hash(signed[0]) == hash(signed[1])
    assert isinstance(hash(FLOW), int)


class Scaled(ide.AbstractKernel):
    """With a number of Python, of which 1 equals 1.0."""

    scale: float

    def evaluate(self, lag):
        return self.scale * jnp.exp(-lag)

    def integral(self, s):
        return -self.scale * jnp.expm1(-s)


def test_numbers_of_python_that_are_equal_have_the_same_hash():
    assert Scaled(1) == Scaled(1.0)
    assert hash(Scaled(1)) == hash(Scaled(1.0))


def test_a_model_may_be_a_static_argument():
    run = lambda model, loss: ide.run_discrete(model, loss, 1.0, 10).theta
    given = ide.Adam(0.1), ide.Quadratic()
    found = jax.jit(run, static_argnums=(0, 1))(*given)
    np.testing.assert_allclose(found, run(*given), rtol=1e-12)


def test_a_traced_model_has_no_hash():
    with pytest.raises(TypeError, match=r"`Adam` has no hash .* traced; one is float64"):
        jax.jit(lambda rate: hash(ide.Adam(rate)))(0.1)
