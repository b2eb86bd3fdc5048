"""Problems that everybody has, and their equations' paths by a program of its own."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import idemodels as ide

Loss = Callable[[Any], Any]


def problems(dtype: Any) -> dict[str, tuple[Loss, Any]]:
    """**Returns:** by name, a loss and where its paths start, in the type `dtype`."""
    rng = np.random.default_rng(7)
    inputs, weights = rng.normal(size=(100, 10)), rng.normal(size=10)
    labels = inputs @ weights + 0.5 * rng.normal(size=100) > 0
    matrix = rng.normal(size=(8, 2)) @ rng.normal(size=(2, 8))
    factors = 0.5 * rng.normal(size=(2, 8, 2))
    X, w, y, M = (jnp.asarray(x, dtype) for x in (inputs, weights, labels, matrix))
    classes, stiffness = jnp.arange(100) % 3, jnp.asarray([1, 3, 10, 30, 100], dtype)
    zeros = lambda *shape: jnp.zeros(shape, dtype)

    def logistic(t):
        z = X @ t[:10] + t[10]
        return jnp.mean(jnp.logaddexp(0, z) - y * z)

    def softmax(t):
        return -jnp.mean(jax.nn.log_softmax(X @ t)[jnp.arange(100), classes])

    def huber(t):
        r = jnp.abs(X @ t - X @ w)
        return jnp.mean(jnp.where(r < 0.5, 0.5 * r * r, 0.5 * r - 0.125))

    def hinge(t):
        return jnp.mean(jnp.maximum(0, 1 - (2 * y - 1) * (X @ t))) + 0.01 * jnp.sum(t**2)

    return {
        "linear regression": (lambda t: jnp.mean((X @ t - X @ w) ** 2), zeros(10)),
        "logistic regression": (logistic, zeros(11)),
        "softmax, random labels": (softmax, zeros(10, 3)),
        "Huber's loss": (huber, zeros(10)),
        "hinge": (hinge, zeros(10)),
        "factorization": (
            lambda t: jnp.mean((t[0] @ t[1].T - M) ** 2),
            jnp.asarray(factors, dtype),
        ),
        "tanh network": _network(jnp.tanh, dtype),
        "ReLU network": _network(jax.nn.relu, dtype),
        "Rosenbrock": (
            lambda t: (1 - t[0]) ** 2 + 100 * (t[1] - t[0] ** 2) ** 2,
            jnp.asarray([-1, 1.5], dtype),
        ),
        "parabola": (lambda t: jnp.sum((t - 4) ** 2), jnp.ones(1, dtype)),
        "double well": (lambda t: jnp.sum((t**2 - 1) ** 2), 0.3 * jnp.ones(1, dtype)),
        "condition 100": (lambda t: 0.5 * jnp.sum(stiffness * t**2), jnp.ones(5, dtype)),
    }


def _network(activation: Any, dtype: Any) -> tuple[Loss, Any]:
    """A network with 12 hidden units that fits a curve; 36 parameters."""
    rng = np.random.default_rng(3)
    x = jnp.linspace(-1, 1, 30, dtype=dtype)[:, None]
    y = x * jnp.cos(3 * x)
    sizes = {"a": ((1, 12), 1.0), "c": ((12,), 1.0), "b": ((12, 1), 1 / 3)}
    arrays = {k: jnp.asarray(c * rng.normal(size=n), dtype) for k, (n, c) in sizes.items()}
    theta0, unravel = ravel_pytree(arrays)

    def loss(v):
        t = unravel(v)
        return jnp.mean((activation(x @ t["a"] + t["c"]) @ t["b"] - y) ** 2)

    return loss, theta0


def others(dtype: Any) -> dict[str, tuple[Loss, Any]]:
    """**Returns:** four more, on which nothing was tuned."""
    rng = np.random.default_rng(11)
    turned = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    hessian = jnp.asarray(turned @ np.diag([1e-2, 1e-1, 1, 10, 30]) @ turned.T, dtype)
    digits = ide.DigitsMLP(hidden=(16,))
    images = jnp.asarray(digits.x[:100].reshape(100, 1, 8, 8), dtype)
    labels = jnp.asarray(digits.y[:100])
    sizes = {"filters": ((4, 1, 3, 3), 3.0), "last": ((36, 10), 6.0), "bias": ((10,), np.inf)}
    arrays = {k: jnp.asarray(rng.normal(size=n) / c, dtype) for k, (n, c) in sizes.items()}

    def convolution(t):
        out = jax.nn.gelu(jax.lax.conv(images, t["filters"], (2, 2), "VALID"))
        z = out.reshape(100, -1) @ t["last"] + t["bias"]
        return -jnp.mean(jax.nn.log_softmax(z)[jnp.arange(100), labels])

    return {
        "turned, condition 3000": (lambda t: 0.5 * t @ hessian @ t, jnp.ones(5, dtype)),
        "log cosh": (ide.LogCosh(np.linspace(-1, 1, 3)), 3.0 * jnp.ones(3, dtype)),
        "convolution": (convolution, arrays),
        "digits": (digits, jax.tree.map(lambda x: jnp.asarray(x, dtype), digits.theta0)),
    }


def splitting(model: Any, loss: Loss, theta0: Any, steps: int, kicks: int) -> Any:
    """The path of Adam, or of RMSProp and AdaGrad read at s, at every optimizer step.

    Memories exactly at frozen parameters, parameters at frozen memories, `kicks` times a step: of
    order 2, with none of the library's code. Rates are the papers', 1 - b. In the first step, where
    a causal path moves like the root of s, times go like squares.
    """
    theta0, unravel = ravel_pytree(theta0)
    gradient, kind = jax.grad(lambda t: loss(unravel(t))), type(model).__name__
    rate = float(np.asarray(model.learning_rate))
    causal = kind != "Adam" and model.reading == "causal"
    b1, b2 = (float(np.asarray(getattr(model, name, 1.0))) for name in ("b1", "b2"))
    b2 = float(np.asarray(model.decay)) if kind == "RMSProp" else b2

    def kick(m, v, g, h):
        if kind == "AdaGrad":
            return m, v + 0.5 * h * g * g
        m = g + (m - g) * jnp.exp(-0.5 * h * (1 - b1)) if kind == "Adam" else m
        return m, g * g + (v - g * g) * jnp.exp(-0.5 * h * (1 - b2))

    def velocity(s, m, v, g):
        if kind == "Adam":
            m, v = m / -jnp.expm1(s * jnp.log(b1)), v / -jnp.expm1(s * jnp.log(b2))
            return -rate * m / (jnp.sqrt(v) + 1e-8)
        ahead = v + g * g if kind == "AdaGrad" else b2 * v + (1 - b2) * g * g
        return -rate * g / (jnp.sqrt(v if causal else ahead) + 1e-8)

    def substep(carry, h):
        theta, m, v, g, s = carry
        m, v = kick(m, v, g, h)
        move = h * velocity(s + 0.5 * h, m, v, g)
        if kind != "Adam":  # the direction reads the gradient: Heun's rule
            move = 0.5 * (move + h * velocity(s + 0.5 * h, m, v, gradient(theta + move)))
        g = gradient(theta + move)
        return (theta + move, *kick(m, v, g, h), g, s + h), None

    even = np.linspace(0.0, 1.0, kicks + 1)
    first, later = (jnp.asarray(np.diff(x), theta0.dtype) for x in (even**2, even))

    def step(carry, k):
        carry = (*carry[:-1], k.astype(theta0.dtype))
        carry, _ = jax.lax.scan(substep, carry, jnp.where((k == 0) & causal, first, later))
        return carry, carry[0]

    def path():
        none = jnp.zeros_like(theta0)
        start = (theta0, none, none, gradient(theta0), jnp.zeros((), theta0.dtype))
        return jax.lax.scan(step, start, jnp.arange(steps))[1]

    return jnp.concatenate([theta0[None], jax.jit(path)()])
