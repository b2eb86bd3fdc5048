"""A fast sine in the learning rate was not a part of the error.

Right: theta = 1 minus its integral.
"""

import jax.numpy as jnp
import numpy as np

import idemodels as ide


def found(F):
    rate = lambda s: 0.01 * (1 + jnp.sin(2 * jnp.pi * s / 7))
    model = ide.Adam(rate, rate="matched", eps=1e-12)
    return ide.solve(model, lambda t: 1.0 * t, F(1.0), np.array([0.0, 1001.0])).theta[-1]


RIGHT, WITHIN = 1 - 10.01, 3e-2
