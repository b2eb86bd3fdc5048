"""Parameters in bfloat16 ended far off as successful.

Right: the path in single precision, to bfloat16's own rounding.
"""

import jax.numpy as jnp
import numpy as np

import idemodels as ide


def found(F):
    del F
    loss, ts = lambda t: jnp.sum((t - 1.0) ** 2), np.arange(0.0, 51.0, 5.0)
    paths = [
        ide.solve(ide.RMSProp(0.05), loss, jnp.zeros(2, t), ts).theta
        for t in (jnp.bfloat16, jnp.float32)
    ]
    return jnp.abs(paths[0].astype(jnp.float32) - paths[1])


RIGHT, WITHIN = np.zeros((11, 2)), 1e-2
