"""Decoupled weight decay was outside of the error.

Right: theta' = -a (1 + w theta) in closed form.
"""

import numpy as np

import idemodels as ide


def found(F):
    model = ide.Adam(0.01, rate="matched", weight_decay=2.0, eps=1e-12)
    return ide.solve(model, lambda t: 1.0 * t, F(1.0), np.arange(0.0, 1001.0, 50.0)).theta


RIGHT, WITHIN = -0.5 + 1.5 * np.exp(-0.02 * np.arange(0.0, 1001.0, 50.0)), 1.5e-2
