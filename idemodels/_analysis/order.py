"""How fast an error vanishes."""

import numpy as np


def order(x: np.ndarray, errors: np.ndarray) -> float:
    """The slope of `errors` over `x` in logarithms, by least squares; NaN for fewer than two.

    **Arguments:**

    - `x`, `errors`: shape `(n,)`; what is not positive and finite is left out.
    """
    x, errors = np.asarray(x, float), np.asarray(errors, float)
    fits = np.isfinite(x) & np.isfinite(errors) & (x > 0) & (errors > 0)
    if np.unique(x[fits]).size < 2:
        return float("nan")
    return float(np.polyfit(np.log(x[fits]), np.log(errors[fits]), 1)[0])
