"""The derivative in the last of `ts` was 0.

Right: a central difference, and a time that is not the last.
"""

import jax
import jax.numpy as jnp

import idemodels as ide


def found(F):
    end = lambda t: ide.solve(
        ide.Adam(0.01), ide.Quadratic(), F(1.0), jnp.stack([F(0.0), t])
    ).theta[-1]
    return jax.grad(end)(F(100.5))


RIGHT, WITHIN = 8.50903e-3, 1e-4
