"""Logistic regression, Adam .05: 1,317 gradients a step in single precision, 37 in double.

Right: no more than 3; the number is how many.
"""

import jax.numpy as jnp
import numpy as np

import idemodels as ide

_RNG = np.random.default_rng(7)
X, W = _RNG.normal(size=(100, 10)), _RNG.normal(size=10)
Y = X @ W + 0.5 * _RNG.normal(size=100) > 0


def found(F):
    def loss(t):
        z = X.astype(F) @ t[:10] + t[10]
        return jnp.mean(jnp.logaddexp(0, z) - Y.astype(F) * z)

    path = ide.solve(ide.Adam(0.05), loss, jnp.zeros(11, F), np.array([0.0, 500.0]))
    return path.stats["num_gradients"] / 500


RIGHT, WITHIN = 1.0, 2.0
