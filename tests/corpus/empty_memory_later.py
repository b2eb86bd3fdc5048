"""A causal path taken up at s = 100 with an empty memory began with one of 100 z'.

Right: Radau in the root of s, 1e-10.
"""

import jax.numpy as jnp
import numpy as np

import idemodels as ide


def found(F):
    model, state = (
        ide.RMSProp(0.01, 0.9, reading="causal"),
        ide.State(100.0, F(1.0), {"v": jnp.zeros(1, F)}),
    )
    s = 100.0 + np.array([0.0, 5.0, 20.0])
    return ide.solve(model, ide.Quadratic(), F(1.0), s, state0=state).theta[1:]


RIGHT, WITHIN = np.array([1.146196, 1.326050]), 5e-3
