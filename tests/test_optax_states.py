"""States of optax's transformations: which are taken over, which are refused, what they ask for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import idemodels as ide

THETA0 = {"a": jnp.ones(2), "b": jnp.zeros(3)}
ADAM, STEPS = optax.adam(0.1), 20
ONE, OTHER = {"a": True, "b": False}, {"a": False, "b": True}
LABELS = {"a": "x", "b": "y"}


@pytest.fixture(autouse=True)
def user_promotion():
    """optax mixes its integer counts with floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def loss(theta):
    curvature = jnp.arange(1.0, 4.0, dtype=theta["b"].dtype)
    return jnp.sum((theta["a"] - 3.0) ** 2) + jnp.sum(curvature * (theta["b"] + 1.0) ** 2)


def trained(tx, theta=None, state=None, steps=STEPS):
    """Parameters and state of a real training loop."""
    theta = THETA0 if theta is None else theta
    state = tx.init(theta) if state is None else state

    @jax.jit
    def step(_, carry):
        theta, state = carry
        updates, state = tx.update(jax.grad(loss)(theta), state, theta)
        return optax.apply_updates(theta, updates), state

    return jax.lax.fori_loop(0, steps, step, (theta, state))


SEVERAL = optax.MultiSteps(ADAM, 2, accumulator_dtype=jnp.float64)
# what holds an Adam, and the updates that make one step of it
TAKEN = {
    "adam": (ADAM, 1),
    "adamw": (optax.adamw(0.1, weight_decay=0.0), 1),
    "clipped": (optax.chain(optax.clip_by_global_norm(1e3), ADAM), 1),
    "scheduled": (optax.adam(optax.constant_schedule(0.1)), 1),
    "bfloat16": (optax.adam(0.1, mu_dtype=jnp.bfloat16), 1),
    "masked decay": (optax.chain(ADAM, optax.masked(optax.add_decayed_weights(0.0), ONE)), 1),
    "masked nowhere": (optax.masked(ADAM, {"a": True, "b": True}), 1),
    "masked twice": (optax.chain(optax.masked(ADAM, ONE), optax.masked(ADAM, OTHER)), 1),
    "partition": (optax.partition({"x": ADAM, "y": ADAM}, LABELS), 1),
    "partition, one empty": (optax.partition({"x": ADAM, "y": ADAM}, {"a": "x", "b": "x"}), 1),
    "injected": (optax.inject_hyperparams(optax.adam)(learning_rate=0.1), 1),
    "finite": (optax.apply_if_finite(ADAM, 3), 1),
    "several gradients": (SEVERAL.gradient_transformation(), 2),
    "snapshot": (optax.chain(ADAM, optax.snapshot("size", optax.tree.norm)), 1),
}


@pytest.mark.parametrize(("tx", "each"), TAKEN.values(), ids=TAKEN)
def test_the_memories_are_taken_from_wherever_they_are(tx, each):
    _, state = trained(tx, steps=STEPS * each)
    found = ide.state_from_optax(ide.Adam(0.1), state)
    inner = trained(ADAM)[1][0]
    assert int(found.s) == STEPS
    # the same arithmetic; with `mu` in bfloat16 each step rounds it by 1/256
    tol = 0.1 if found.memory["m"]["a"].dtype == jnp.bfloat16 else 1e-9
    for name, right in (("m", inner.mu), ("v", inner.nu)):
        for key in THETA0:
            moment = np.asarray(found.memory[name][key][0], float)
            np.testing.assert_allclose(moment, right[key], rtol=tol, atol=tol)


def test_a_path_from_a_state_in_parts_is_near_the_optimizer():
    tx, model = TAKEN["partition"][0], ide.Adam(0.1)
    theta, state = trained(tx)
    start = ide.state_from_optax(model, state)
    path = ide.solve(model, loss, theta, np.linspace(STEPS, STEPS + 30.0, 4), state0=start)
    later, _ = trained(tx, theta, state, 30)
    apart = max(float(jnp.max(jnp.abs(path.theta[k][-1] - later[k]))) for k in THETA0)
    assert apart < 0.03  # the model's own error; from a state of zeros it is 0.3


OTHERS = {
    "amsgrad": (optax.amsgrad(0.1), "has a ScaleByAmsgradState.*`idemodels.InterpolatingFlow"),
    "adabelief": (optax.adabelief(0.1), "has a ScaleByBeliefState"),
    "adan": (optax.adan(0.1), "has a ScaleByAdanState"),
    "novograd": (optax.novograd(0.1), "has a ScaleByNovogradState"),
    "lion": (optax.lion(0.1), "has a ScaleByLionState"),
    "sm3": (optax.sm3(0.1), "has a ScaleBySM3State"),
    "adafactor": (optax.adafactor(0.1), "has a FactoredState"),
    "sophia": (optax.contrib.sophia(0.1), "has a SophiaState"),
    "ademamix": (optax.contrib.ademamix(0.1), "has a ScaleByAdemamixState"),
    "schedule-free": (optax.contrib.schedule_free_adamw(0.1), "has a ScheduleFreeState"),
    "plateau": (optax.chain(ADAM, optax.contrib.reduce_on_plateau()), "has a ReduceLROnPlateau"),
    "momentum too": (optax.chain(optax.trace(0.9), ADAM), "no others, but has a TraceState"),
    "twice": (optax.chain(ADAM, ADAM), "once, but has two for the same parameters"),
    "sgd": (optax.sgd(0.1), "in a ScaleByAdamState, but is tuple without one"),
    "rmsprop": (optax.rmsprop(0.1), "has a ScaleByRmsState"),
    "masked": (optax.masked(ADAM, ONE), r"its masks leave out `theta\['b'\]`"),
    "frozen": (
        optax.partition({"x": ADAM, "y": optax.set_to_zero()}, LABELS),
        r"its masks leave out `theta\['b'\]`",
    ),
    "momentum elsewhere": (
        optax.partition({"x": ADAM, "y": optax.sgd(0.1, 0.9)}, LABELS),
        "has a TraceState",
    ),
}
OTHERS_OF_RMSPROP = {
    "adam": (ADAM, "in a ScaleByRmsState, and no others, but has a ScaleByAdamState"),
    "centered": (optax.rmsprop(0.1, centered=True), "has a ScaleByRStdDevState"),
    "corrected": (optax.rmsprop(0.1, bias_correction=True), "has a ScaleByRmsWithCountState"),
    "momentum": (optax.rmsprop(0.1, momentum=0.9), "has a TraceState"),
}


@pytest.mark.parametrize(("tx", "message"), OTHERS.values(), ids=OTHERS)
def test_other_memories_are_refused_by_name(tx, message):
    with pytest.raises(ValueError, match=message):
        ide.state_from_optax(ide.Adam(0.1), tx.init(THETA0))


@pytest.mark.parametrize(("tx", "message"), OTHERS_OF_RMSPROP.values(), ids=OTHERS_OF_RMSPROP)
def test_memories_that_rmsprop_has_not_are_refused_by_name(tx, message):
    with pytest.raises(ValueError, match=message):
        ide.state_from_optax(ide.RMSProp(0.1), tx.init(THETA0))


def test_parts_that_stand_elsewhere_are_refused():
    state = TAKEN["partition"][0].init(THETA0)
    one = state.inner_states["x"].inner_state[0]
    ahead = one._replace(count=one.count + 3)
    inner = optax.MaskedState((ahead, *state.inner_states["x"].inner_state[1:]))
    state = optax.PartitionState(state.inner_states | {"x": inner})
    with pytest.raises(ValueError, match="its parts have made 0 and 3"):
        ide.state_from_optax(ide.Adam(0.1), state)
    tx = TAKEN["several gradients"][0]
    with pytest.raises(ValueError, match="MultiStepsState has 1 gradients that are still"):
        ide.state_from_optax(ide.Adam(0.1), trained(tx, steps=3)[1])


def test_optaxs_adagrad_is_taken():
    _, state = trained(optax.adagrad(0.1), steps=3)
    found = ide.state_from_optax(ide.AdaGrad(0.1), state)
    assert found.s is None
    np.testing.assert_array_equal(found.memory["G"]["b"][0], state[0].sum_of_squares["b"])


STATES = {
    "shape": ({"a": jnp.ones(2), "b": jnp.zeros(4)}, r"\['b'\] has the shapes \(1, 4\) and \(1, 3"),
    "name": ({"a": jnp.ones(2), "c": jnp.zeros(3)}, r"only the state has memory\['m'\]\['c'\]"),
}


@pytest.mark.parametrize(("theta", "message"), STATES.values(), ids=STATES)
def test_a_state_of_other_parameters_is_told(theta, message):
    state = ide.state_from_optax(ide.Adam(0.1), ADAM.init(theta))
    with pytest.raises(ValueError, match=f"`state0` must be of this model.*{message}"):
        ide.solve(ide.Adam(0.1), loss, THETA0, np.arange(3.0), state0=state)
    flow = ide.InterpolatingFlow(ADAM)
    with pytest.raises(ValueError, match="`state0` must be of this model"):
        ide.solve(
            flow, loss, THETA0, np.arange(3.0), state0=ide.state_from_optax(flow, ADAM.init(theta))
        )


def test_the_moments_of_a_run_in_parts_are_whole():
    run = ide.run_discrete(TAKEN["partition"][0], loss, THETA0, 3)
    whole = ide.run_discrete(ADAM, loss, THETA0, 3)
    assert set(run.moments["m"]) == set(THETA0)
    assert ide.compare(run, whole).moments["v"].max_error < 1e-12
    # one that knows a part of them has no moment in common
    part = ide.run_discrete(optax.masked(ADAM, ONE), loss, THETA0, 3)
    assert not ide.compare(part, whole).moments


SGD = optax.sgd(0.1)
ASKING = {
    "lbfgs": (optax.lbfgs(), ("value", "grad", "value_fn"), False),
    "backtracking": (
        optax.chain(SGD, optax.scale_by_backtracking_linesearch(15)),
        ("value", "grad", "value_fn"),
        False,
    ),
    "polyak": (optax.polyak_sgd(), ("value",), True),
    "plateau": (optax.chain(ADAM, optax.contrib.reduce_on_plateau(patience=2)), ("value",), True),
    "momo": (optax.contrib.momo(0.1), ("value",), True),
    "several gradients": (
        optax.MultiSteps(optax.polyak_sgd(), 2).gradient_transformation(),
        ("value",),
        True,
    ),
    "sophia": (optax.contrib.sophia(0.1), ("obj_fn",), False),
    "sam": (optax.contrib.sam(SGD, SGD), (), True),
    "sam, opaque": (optax.contrib.sam(SGD, SGD, opaque_mode=True), ("grad_fn",), False),
}


@pytest.mark.parametrize(("tx", "asks", "one_each"), ASKING.values(), ids=ASKING)
def test_an_optimizer_is_given_what_it_asks_for(tx, asks, one_each):
    steps, theta = 5, THETA0
    run = ide.run_discrete(tx, loss, theta, steps)
    state = tx.init(theta)

    @jax.jit
    def step(theta, state):
        value, grad = jax.value_and_grad(loss)(theta)
        every = {"value": value, "grad": grad, "value_fn": loss, "obj_fn": loss}
        every["grad_fn"] = lambda theta, _: jax.grad(loss)(theta)
        given = {name: every[name] for name in asks}
        updates, state = tx.update(grad, state, theta, **given)
        return optax.apply_updates(theta, updates), state

    for _ in range(steps):
        theta, state = step(theta, state)
    for key, x in theta.items():
        np.testing.assert_allclose(run.theta[key][-1], x, rtol=1e-9, atol=1e-12)
    assert int(run.stats["num_gradients"]) == (steps if one_each else -1)
