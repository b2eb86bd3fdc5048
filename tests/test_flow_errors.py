"""What cannot flow is refused by name, or flagged."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import idemodels as ide


def solve(tx, steps=30, **options):
    flow = ide.InterpolatingFlow(tx, **options)
    return ide.solve(flow, ide.Quadratic(), 1.0, np.arange(steps + 1.0), throw=False)


REFUSED = {
    "MultiSteps": optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(),
    "LBFGS": optax.lbfgs(),
    "ReduceLROnPlateau": optax.chain(optax.adam(0.1), optax.contrib.reduce_on_plateau()),
    "Linesearch": optax.chain(optax.sgd(0.1), optax.scale_by_backtracking_linesearch(5)),
    "ApplyIfFinite": optax.apply_if_finite(optax.adam(0.1), 3),
    "Lookahead": optax.chain(
        optax.GradientTransformation(
            lambda p: optax.LookaheadState(p, jnp.zeros((), int)), lambda u, s, p=None: (u, s)
        )
    ),
    "rng_key` of type key": optax.noisy_sgd(0.1, key=jax.random.key(0)),
    "is_init_step` of type bool": optax.contrib.dog(),
    "gradient, state and parameters alone": optax.polyak_sgd(),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_flow_is_refused_by_name(words):
    with pytest.raises(ValueError, match=f"Argument `tx` must .*{words}"):
        solve(REFUSED[words])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tx": "adam"}, "Argument `tx` must be an optax transformation"),
        ({"tx": optax.MultiSteps(optax.adam(0.1), 2)}, "but is MultiSteps"),
        ({"order": 0}, "Argument `order` must be a positive integer, but is 0"),
        ({"order": 9}, "Argument `order` must be at most 8"),
        ({"exact_steps": -1}, "Argument `exact_steps` must be an integer, 0 or more, but is -1"),
        ({"stride": 0}, "Argument `stride` must be a positive integer, but is 0"),
        ({"kinks": (30, 20)}, "Argument `kinks` must be increasing integers"),
        ({"order": 8, "predict_error": True}, "Argument `predict_error` must be False"),
    ],
)
def test_arguments_are_checked(options, words):
    with pytest.raises(ValueError, match=words):
        ide.InterpolatingFlow(**({"tx": optax.adam(0.1)} | options))


def test_hyperparams_must_be_injected_ones():
    with pytest.raises(ValueError, match="Argument `hyperparams` must have names"):
        solve(optax.adam(0.1), hyperparams={"learning_rate": 0.1})


def test_a_schedule_that_asks_for_the_step_is_told_what_to_write():
    flow = ide.InterpolatingFlow(optax.adam(lambda step: 0.1 if step < 5 else 0.05))
    with pytest.raises(ValueError, match=r"`tx` .* JAX can trace.*`jnp.where\(step"):
        ide.solve(flow, ide.Quadratic(), 1.0, np.arange(9.0))


def test_methods_that_do_not_solve_flows_are_refused():
    flow, ts = ide.InterpolatingFlow(optax.adam(0.1)), np.arange(9.0)
    for method in (ide.History(), ide.FixedPoint()):
        with pytest.raises(ValueError, match="Argument `method` must be one that solves"):
            ide.solve(flow, ide.Quadratic(), 1.0, ts, method=method)
    with pytest.raises(ValueError, match="Argument `steady_tol` must be 'rtol' or None"):
        ide.solve(flow, ide.Quadratic(), 1.0, ts, method=ide.Markov(steady_tol=1e-3))


def test_a_failure_says_so():
    flow = ide.InterpolatingFlow(optax.sgd(1.5), exact_steps=0, order=1, check=False)
    path = ide.solve(flow, lambda x: -(x**2) / 2, 1.0, np.array([0.0, 200.0]), throw=False)
    assert path.result == ide.RESULTS.diverged
    assert np.isnan(path.theta[-1])


def test_exact_steps_that_are_not_finite_say_so():
    flow = ide.InterpolatingFlow(optax.sgd(1e3), exact_steps=200, check=False)
    path = ide.solve(flow, ide.Quadratic(), 1.0, np.array([0.0, 200.0]), throw=False)
    assert path.result == ide.RESULTS.nonfinite_gradient


@pytest.mark.slow
@pytest.mark.parametrize(
    "tx",
    [optax.lion(0.02), optax.sign_sgd(0.02), optax.rprop(0.01), optax.yogi(0.01)],
    ids=["lion", "signum", "rprop", "yogi"],
)
def test_signs_are_flagged(tx):
    method = ide.Markov(max_steps=500)
    flow = ide.InterpolatingFlow(tx)
    with pytest.warns(UserWarning, match="takes signs"):
        ide.solve(flow, ide.Quadratic(), 1.0, np.arange(31.0), method=method, throw=False)
    found = ide.analysis.smoothness(tx, ide.Quadratic(), 1.0, 200)
    assert not found.smooth
    assert "takes signs" in found.statement


@pytest.mark.slow
def test_adafactor_is_flagged():
    method = ide.Markov(max_steps=500)
    flow = ide.InterpolatingFlow(optax.adafactor(0.02))
    with pytest.warns(UserWarning, match="Factored"):
        ide.solve(flow, ide.Quadratic(), 1.0, np.arange(31.0), method=method, throw=False)
