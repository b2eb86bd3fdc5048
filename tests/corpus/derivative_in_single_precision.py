"""Reverse mode in single precision was off by 16 % in b2.

Right: both modes in double precision, 1e-8.
"""

import jax
import jax.numpy as jnp
import numpy as np

import idemodels as ide

_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(40, 8))
Y = np.tanh(X @ _RNG.normal(size=8))
A, B = _RNG.normal(size=(8, 6)) / 3, _RNG.normal(size=6) / 3


def found(F):
    loss = lambda t: jnp.mean(
        (jnp.tanh(X.astype(F) @ t["a"] + t["c"][None]) @ t["b"] - Y.astype(F)) ** 2
    )
    theta0 = {"a": jnp.asarray(A, F), "c": jnp.zeros(6, F), "b": jnp.asarray(B, F)}

    def last(h):
        model = ide.Adam(h[2], b1=h[0], b2=h[1])
        return ide.solve(model, loss, theta0, np.array([0.0, 300.0])).loss[-1]

    return jax.jit(jax.grad(last))(jnp.asarray([0.9, 0.999, 0.01], F)) / np.abs(RIGHT0)


RIGHT0 = np.array([-0.0165507, 0.121057, -0.602061])
RIGHT, WITHIN = np.sign(RIGHT0), 1e-2
