"""Any kernel as a sum of exponentials, so that its memory integral becomes an ODE."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import is_concrete
from .base import AbstractKernel
from .function_kernel import check_kernel
from .sum_of_exponentials import SumOfExponentials

_MOST_TERMS = 120
# Terms may cancel by so much before more of them are tried: it multiplies the rounding of a solve.
_MOST_SIZE = 100.0
# Singular values below this, of the largest, are noise: it keeps the weights from growing.
_RCOND = 1e-12


def fit_exponentials(
    kernel: AbstractKernel, horizon: float, tol: float, *, shortest: float = 1.0
) -> SumOfExponentials:
    r"""Fits a sum of exponentials to a kernel, by least squares on log-spaced rates.

    The error that is bounded by `tol`, and measured as `max_error`, is

    $$\max_{s_0 \le s \le H} \frac{\int_0^s |K - K_{fit}|}{\int_0^s |K|},$$

    $H$ = `horizon`, $s_0$ = `shortest`. So at every s between, the moment of a feature h is wrong
    by at most $\mathtt{tol} \int_0^s |K| \max|h|$; divided by $\int_0^s K$ (`debias`), for a kernel
    without negative values, by at most `tol` times max|h|. No pointwise bound is promised. For s
    below `shortest` the absolute error is still at most that at `shortest`, but the relative one
    need not be small: a kernel that is infinite at lag 0 has none that is uniform down to 0. Beyond
    `horizon` nothing is promised.

    The number of terms grows until `tol` is met. Of the fits with that number the one is taken
    whose terms cancel least; if it meets `tol` without the terms of negative weight, they are left
    out. What still cancels, rarely more than a hundredfold, multiplies the rounding of a solve. The
    fastest rates are of the order of $1/(\mathtt{shortest} \cdot \mathtt{tol}^{1/a})$, a being the
    kernel's `exponent`: the ODE is stiff, and the stiffer the more singular the kernel.

    On the host, in double precision; the kernel is evaluated in double whatever the precision
    around it.

    Sources: for rates in geometric progression, Beylkin & Monzon (2010), "Approximation by
    exponential sums revisited"; the weights here are fitted.

    **Arguments:**

    - `kernel`: what to fit, an [`idemodels.AbstractKernel`][] with known values.
    - `horizon`: the largest lag, in steps: the last of the `ts` of a solve.
    - `tol`: the error allowed, between 0 and 1.
    - `shortest`: the lag, in steps, from which on the error is relative to the integral so far; not
        more than `horizon`, which takes its place where that is shorter.

    **Returns:** the sum, with the error measured in its field `max_error`.

    **Raises:** `ValueError` if an argument is not as above, if the kernel is NaN or infinite at a
    lag above 0, or if 120 terms do not reach `tol`.
    """
    if not isinstance(kernel, AbstractKernel):
        raise ValueError(
            f"Argument `kernel` must be a kernel such as `idemodels.PowerLaw(0.5)`, but is "
            f"{kernel!r}. A function of the lag goes in as `idemodels.FunctionKernel(f)`."
        )
    horizon = _as_number(horizon, "horizon")
    shortest = min(_as_number(shortest, "shortest"), horizon)
    tol = _as_number(tol, "tol")
    if tol >= 1:
        raise ValueError(f"Argument `tol` must be less than 1, but is {tol}.")

    target = _sample(kernel, horizon, tol, shortest)
    best = _search(target, tol)
    if best.error > tol:
        raise ValueError(
            f"Argument `tol` must be one that {_MOST_TERMS} exponentials reach, but is {tol:.3g}: "
            f"the best error is {best.error:.2g}, with {best.rates.size} terms. Raise `tol`, "
            "shorten `horizon` or raise `shortest`; or solve with `idemodels.History`, which needs "
            "no fit."
        )
    best = _positive(target, best, tol)
    return SumOfExponentials(best.weights, best.rates, max_error=best.error)


def _search(target: "_Target", tol: float) -> "_Fit":
    """With as few terms as meet `tol`, the fit that cancels least; or else the best of all."""
    best = _Fit(np.zeros(1), np.zeros(1), np.inf, np.inf)
    for n in _numbers_of_terms():
        fits = [target.fit(rates) for rates in target.candidates(n)]
        best = min(best, *fits, key=lambda fit: fit.error)
        good = [f for f in fits if f.error <= tol and f.size <= _MOST_SIZE * target.integral[-1]]
        if good:
            return min(good, key=lambda fit: fit.size)
    return best


def _positive(target: "_Target", best: "_Fit", tol: float) -> "_Fit":
    """Without terms of negative weight, if `tol` allows."""
    positive = best
    while np.any(positive.weights <= 0) and np.any(positive.weights > 0):
        positive = target.fit(positive.rates[positive.weights > 0])
    return positive if positive.error <= tol and np.all(positive.weights > 0) else best


class _Fit(NamedTuple):
    weights: np.ndarray
    rates: np.ndarray
    error: float
    size: float  # the integral of the terms without their signs: what rounding is relative to


class _Target(NamedTuple):
    """A kernel on graded lags, and how far from it a sum is."""

    lags: np.ndarray  # (panels, nodes)
    quadrature: np.ndarray  # the same shape
    values: np.ndarray  # the same shape
    start: float  # the first panel's left edge
    integral_to_start: float
    integral: np.ndarray  # of |K| at the panels' right edges, (panels,)
    first_counted: int  # the panel that ends at `shortest`
    slowest: np.ndarray  # candidates for the slowest rate
    fastest: np.ndarray  # candidates for the fastest one

    def candidates(self, n: int) -> list[np.ndarray]:
        """Sets of n rates in geometric progression; one alone is the fastest."""
        ends = [(slow, fast) for slow in self.slowest for fast in self.fastest if slow < fast]
        return [np.geomspace(fast, slow, n)[::-1] for slow, fast in ends]

    def fit(self, rates: np.ndarray) -> _Fit:
        """Weights by least squares of the lag times the error, over the integral so far."""
        scale = np.maximum(self.integral, self.integral[self.first_counted])
        some = np.s_[::2, 1::3]  # a sixth of the nodes, still 6 an octave, is enough for the fit
        lags = self.lags[some]
        row = (lags / scale[::2, None]).ravel()
        columns = row[:, None] * np.exp(-np.outer(lags, rates))
        norms = np.maximum(np.linalg.norm(columns, axis=0), np.finfo(float).tiny)
        right = row * self.values[some].ravel()
        weights = np.linalg.lstsq(columns / norms, right, rcond=_RCOND)[0] / norms
        parts = np.abs(weights) * -np.expm1(-rates * self.lags[-1, -1]) / rates
        return _Fit(weights, rates, self.error(weights, rates), float(parts.sum()))

    def error(self, weights: np.ndarray, rates: np.ndarray) -> float:
        fitted = (np.exp(-np.outer(self.lags, rates)) @ weights).reshape(self.lags.shape)
        # before the first panel the two are bounded one by one
        unseen = self.integral_to_start + np.abs(weights).sum() * self.start
        error = unseen + np.cumsum(np.sum(np.abs(fitted - self.values) * self.quadrature, axis=1))
        return float(np.max((error / self.integral)[self.first_counted :]))


def _sample(kernel: AbstractKernel, horizon: float, tol: float, shortest: float) -> _Target:
    if not is_concrete((kernel, kernel.exponent)):
        raise _traced()
    a = float(kernel.exponent)
    # Lags with less than this part of the integral need not be fitted, and need not be looked at.
    # The floor only keeps a fit that cannot succeed from taking long.
    unresolved = max(shortest * tol ** (1 / a), 1e-30 * horizon)
    start = max(shortest * (0.01 * tol) ** (1 / a), 1e-34 * horizon)
    before = _edges(start, shortest)
    edges = np.concatenate([before, _edges(shortest, horizon)[1:]])
    x, w = np.polynomial.legendre.leggauss(6)
    half = np.diff(edges)[:, None] / 2.0
    lags, quadrature = edges[:-1, None] + half * (1.0 + x), half * w

    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        check_kernel(kernel, lags)
        values = kernel.evaluate(jnp.asarray(lags.ravel()))
        first = kernel.integral(jnp.asarray(start))
    if not is_concrete((values, first)):
        raise _traced()
    values = np.asarray(values).reshape(lags.shape)
    first = abs(float(first))
    integral = first + np.cumsum(np.sum(np.abs(values) * quadrature, axis=1))
    counted = before.size - 2
    if not integral[counted] > 0:
        raise ValueError(
            f"Argument `shortest` must be a lag by which the kernel has some weight, but up to "
            f"{shortest:.3g} it is zero. Raise `shortest`."
        )
    # where all but tol of the weight is behind: horizon, unless the kernel has forgotten before
    memory = edges[1:][integral >= (1.0 - tol) * integral[-1]][0]
    fastest = np.geomspace(1.0 / memory, 3.0 / unresolved, 7)[1:]
    # a kernel without a scale needs slower rates than 1/memory, one with a scale is spoiled by them
    slowest = np.array([2.0, 0.5, 0.1]) / memory
    return _Target(lags, quadrature, values, start, first, integral, counted, slowest, fastest)


def _edges(start: float, stop: float) -> np.ndarray:
    """Panels of a sixth of an octave."""
    if stop <= start:
        return np.array([stop])
    return np.geomspace(start, stop, int(np.ceil(6.0 * np.log2(stop / start))) + 1)


def _numbers_of_terms() -> list[int]:
    """1, 2, ... and in steps of an eighth as they grow, up to the most."""
    numbers = [1]
    while numbers[-1] < _MOST_TERMS:
        numbers.append(min(max(numbers[-1] + 1, int(1.125 * numbers[-1])), _MOST_TERMS))
    return numbers


def _as_number(x: Any, name: str) -> float:
    """A positive, finite number that is known."""
    if not is_concrete(x):
        raise ValueError(f"Argument `{name}` must be known, but is traced. Fit outside of `jit`.")
    try:
        value = float(x)
    except (TypeError, ValueError):
        raise ValueError(f"Argument `{name}` must be a number, but is {x!r}.") from None
    if not 0 < value < np.inf:
        raise ValueError(f"Argument `{name}` must be positive and finite, but is {value}.")
    return value


def _traced() -> ValueError:
    return ValueError(
        "Argument `kernel` must be concrete, but is traced: the number of terms depends on its "
        "values. Fit outside of `jit`, `vmap` and `grad`, and pass the sum in."
    )
