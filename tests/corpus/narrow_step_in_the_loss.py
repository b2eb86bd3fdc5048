"""A step of the loss, .004 wide, lies within one step of the solver; `max_step` resolves it.

Right: DOP853, max_step .05.
"""

import jax.numpy as jnp
import numpy as np

import idemodels as ide


def found(F):
    loss = lambda y: 0.5 * (y - 4) ** 2 + 0.02 * jnp.tanh((y - 2.5) / 0.002)
    method = ide.Markov(max_step=0.25, rtol=1e-4)
    return ide.solve(ide.Adam(0.01), loss, F(1.0), np.array([0.0, 300.0]), method=method).theta[-1]


RIGHT, WITHIN = 3.204833, 2e-3
