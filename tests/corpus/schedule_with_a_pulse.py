"""A burst of the learning rate that lasts for five steps was stepped over.

Right: SciPy's DOP853 in pieces, 1e-10.
"""

import numpy as np

import idemodels as ide


def found(F):
    rate = lambda s: 1e-3 + 0.05 * ((s >= 500) & (s < 505))
    ts = np.array([0.0, 500.0, 1000.0])
    return ide.solve(ide.Adam(rate), ide.Quadratic(), F(1.0), ts).theta[1:]


RIGHT, WITHIN = np.array([1.480535, 2.123734]), 1e-2
