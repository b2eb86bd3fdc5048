"""An empty array among the parameters ended in a raw error. Right: the path without it."""

import jax.numpy as jnp
import numpy as np

import idemodels as ide


def found(F):
    loss, ts = lambda t: jnp.sum((t["a"] - 1.0) ** 2), np.arange(0.0, 51.0, 5.0)
    starts = {"a": jnp.zeros(2, F)}, {"a": jnp.zeros(2, F), "b": jnp.zeros((0, 3), F)}
    paths = [ide.solve(ide.RMSProp(0.05), loss, theta0, ts).theta["a"] for theta0 in starts]
    return paths[0] - paths[1]


RIGHT, WITHIN = np.zeros((11, 2)), 1e-5
