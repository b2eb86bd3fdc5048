"""Adam with inertia once more, in NumPy and SciPy: what `SecondOrderAdam` is held against.

Nothing here imports the library. (E6) with the moments as (E8), by DOP853 in x = sqrt(s), in which
the path is smooth at the start.
"""

import numpy as np
from scipy.integrate import solve_ivp


def gradient(c):
    """Of (1 - x)^2 + c (x^2 - 1)^2."""
    return lambda x: -2.0 * (1.0 - x) + 4.0 * c * x * (x * x - 1.0)


def solve(gradient, alpha, b1, b2, velocity0, theta0, ts, eps=1e-8):
    """The path at `ts`: rows of theta, theta', m, m', v, v'."""
    logs = np.log(b1), np.log(b2)

    def field(x, y):
        s = x * x
        theta, velocity, m, m1, v, v1 = y
        g = gradient(theta)
        pull = 0.0
        if s > 0:
            first, second = (-np.expm1(s * log) for log in logs)
            pull = -alpha * (m / first) / (np.sqrt(max(v, 0.0) / second) + eps)
        rates = [
            velocity,
            2.0 * (pull - velocity),
            m1,
            2.0 * ((1.0 - b1) * (g - m) - m1),
            v1,
            2.0 * ((1.0 - b2) * (g * g - v) - v1),
        ]
        return 2.0 * x * np.array(rates)

    start = [theta0, alpha * velocity0, 0.0, 0.0, 0.0, 0.0]
    roots = np.sqrt(ts)
    out = solve_ivp(field, (0.0, roots[-1]), start, "DOP853", t_eval=roots, rtol=1e-12, atol=1e-15)
    assert out.success, out.message
    return out.y.T
