"""A learning rate that jumps between two saved steps was read at nodes far apart.

Right: theta = 1 minus its integral.
"""

import numpy as np
import optax

import idemodels as ide


def found(F):
    rate = optax.piecewise_constant_schedule(0.01, {300: 0.1, 617: 0.1})
    model = ide.Adam(rate, rate="matched", eps=1e-12)
    return ide.solve(model, lambda t: 1.0 * t, F(1.0), np.array([0.0, 1000.0])).theta[-1]


RIGHT, WITHIN = 1 - 3 - 0.317 - 0.0383, 1e-2
