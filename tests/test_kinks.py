"""Losses whose gradient jumps: each path is as near to the equation's as it says, or is marked.

The reference is a splitting of the equation with 256 parts of an optimizer step, which shares no
code with the library.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import idemodels as ide
from benchmarks.ordinary_problems import splitting

STEPS, RTOL = 200, ide.Markov().rtol
_RNG = np.random.default_rng(5)
X, W = _RNG.normal(size=(60, 6)), _RNG.normal(size=6)
Y, SIGN = X @ W + 0.3 * _RNG.normal(size=60), np.sign(X @ W + 0.3 * _RNG.normal(size=60))
LINES = _RNG.normal(size=(9, 4))


def network(width, activation, seed):
    """A hidden layer that fits a curve."""
    rng = np.random.default_rng(seed)
    x = jnp.linspace(-1, 1, 40)[:, None]
    y = jnp.sin(4 * x)
    shapes = {"a": (1, width), "c": (width,), "b": (width, 1)}
    scales = {"a": 1.0, "c": 1.0, "b": 1 / np.sqrt(width)}
    arrays = {k: jnp.asarray(scales[k] * rng.normal(size=n)) for k, n in shapes.items()}
    theta0, unravel = ravel_pytree(arrays)

    def loss(theta):
        t = unravel(theta)
        return jnp.mean((activation(x @ t["a"] + t["c"][None]) @ t["b"] - y) ** 2)

    return loss, theta0


def pooled(theta):
    z = jnp.max((X @ theta.reshape(6, 4)).reshape(60, 2, 2), axis=2)
    return jnp.mean((z[:, 0] - z[:, 1] - Y) ** 2)


def linear(f):
    return (lambda t: jnp.mean(f(X @ t)), jnp.zeros(6))


LOSSES = {
    "ReLU, 4": network(4, jax.nn.relu, 0),
    "ReLU, 12": network(12, jax.nn.relu, 1),
    "ReLU, 40": network(40, jax.nn.relu, 2),
    "ReLU, another 12": network(12, jax.nn.relu, 3),
    "leaky ReLU": network(12, jax.nn.leaky_relu, 4),
    "ReLU, at most 6": network(12, jax.nn.relu6, 5),
    "hard tanh": network(12, jax.nn.hard_tanh, 6),
    "hinge": linear(lambda z: jnp.maximum(0, 1 - SIGN * z)),
    "squared hinge": linear(lambda z: jnp.maximum(0, 1 - SIGN * z) ** 2),
    "perceptron": (lambda t: jnp.mean(jnp.maximum(0, -SIGN * (X @ t))), 0.3 * jnp.ones(6)),
    "absolute error": linear(lambda z: jnp.abs(z - Y)),
    "quantile": linear(lambda z: jnp.maximum(0.9 * (Y - z), 0.1 * (z - Y))),
    "insensitive": linear(lambda z: jnp.maximum(0, jnp.abs(z - Y) - 0.3)),
    "Huber": linear(
        lambda z: jnp.where(jnp.abs(z - Y) < 0.3, 0.5 * (z - Y) ** 2, 0.3 * jnp.abs(z - Y))
    ),
    "lasso": (lambda t: jnp.mean((X @ t - Y) ** 2) + 0.3 * jnp.sum(jnp.abs(t)), jnp.ones(6)),
    "clipped error": linear(lambda z: jnp.minimum((z - Y) ** 2, 2.0)),
    "clipped output": linear(lambda z: (jnp.clip(z, -1, 1) - jnp.clip(Y, -1, 1)) ** 2),
    "the largest of lines": (lambda t: jnp.max(LINES @ t) + 0.05 * jnp.sum(t**2), jnp.ones(4)),
    "the largest of parabolas": (
        lambda t: jnp.max(jnp.sum((t[None] - LINES) ** 2, axis=1)),
        2 * jnp.ones(4),
    ),
    "pooling by the largest": (pooled, 0.3 * jnp.sin(jnp.arange(24.0))),
}
MODELS = (ide.Adam(0.02), ide.RMSProp(0.02, 0.99), ide.AdaGrad(0.1))
SIZES = {name: theta0.size for name, (_, theta0) in LOSSES.items()}


@functools.cache
def one_of(size):
    """The losses of so many parameters as one, of which `args` is the number: one program."""
    losses = [LOSSES[name][0] for name in LOSSES if SIZES[name] == size]
    return lambda theta, number: jax.lax.switch(number, losses, theta)


@functools.cache
def reference(size, which):
    """The path by splitting, of a loss' number and its start."""
    loss, model = one_of(size), MODELS[which]
    return jax.jit(lambda number, at: splitting(model, lambda t: loss(t, number), at, STEPS, 256))


# those of one program follow one another; three are run by default
ORDER = sorted(((k, size, name) for name, size in SIZES.items() for k in range(len(MODELS))))
QUICK = {("ReLU, 4", 0), ("squared hinge", 2), ("lasso", 1)}
CASES = [
    pytest.param(name, k, marks=() if (name, k) in QUICK else pytest.mark.slow)
    for k, _, name in ORDER
]


@pytest.mark.parametrize(("name", "which"), CASES)
def test_a_path_with_kinks_is_as_near_as_it_says(name, which):
    size, theta0, model = SIZES[name], LOSSES[name][1], MODELS[which]
    number = jnp.asarray([n for n in SIZES if SIZES[n] == size].index(name))
    loss = one_of(size)
    right = np.asarray(reference(size, which)(number, theta0))
    path = ide.solve(model, loss, theta0, np.arange(STEPS + 1.0), args=number)
    error = np.abs(np.asarray(path.theta) - right).max() / np.abs(right - right[0]).max()
    assert path.stats["num_gradients"] <= 3 * STEPS + 100
    assert error <= 10 * RTOL or not path.stats["converged"]
    # marked or not, not much further than the optimizer's own steps are
    run = ide.run_discrete(model, loss, theta0, STEPS, args=number)
    apart = np.abs(np.asarray(run.theta) - right).max() / np.abs(right - right[0]).max()
    kind, taken = type(model).__name__, path.stats["num_gradients"]
    print(f"{name}, {kind}: {error:.1e} ({apart:.1e}), {taken} gradients")
    assert error <= max(1.5 * apart, 10 * RTOL)
