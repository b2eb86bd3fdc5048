"""Optimizers that ask for the value, the gradient and the function were run without.

Right: optax's own loop.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import idemodels as ide


def found(F):
    loss = lambda t: jnp.sum((t - 3.0) ** 2 * jnp.arange(1.0, 4.0, dtype=F))
    tx, x = optax.polyak_sgd(), jnp.zeros(3, F)
    state, start = tx.init(x), x
    for _ in range(5):
        value, g = jax.value_and_grad(loss)(x)
        updates, state = tx.update(g, state, x, value=value, grad=g, value_fn=loss)
        x = optax.apply_updates(x, updates)
    return ide.run_discrete(tx, loss, start, 5).theta[-1] - x


RIGHT, WITHIN = np.zeros(3), 1e-6
