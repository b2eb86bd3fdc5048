"""An exponential multistep solver: one gradient a step, and no error from the memories."""

import functools
from typing import Any, ClassVar

import diffrax as dfx
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from .._equation import Augmented, Equation, cast, dtype_of, equation_of
from .._programs import traced_once
from .._types import Flag, Scalar
from .exact_step import ExactStep, combine, masked_lagrange, nodes_for, rows
from .kick_drift import KickDrift, is_short
from .norms import memory_time
from .reporting import AbstractReporting, Reported, first_order
from .split import Split

ORDERS = (2, 3, 4, 5, 6)
# A memory is read under a root, in a quotient: its error weighs less than one of theta. Measured:
# with 1 a run of AdaGrad takes half as many steps again for the same error.
_MEMORY_ERROR = 0.1


class ExponentialMultistep(AbstractReporting):
    r"""A multistep method for the augmented equation that takes one gradient a step.

    The polynomial through the last `order` - 1 gradients foretells the gradient along the step;
    under it the memories are propagated exactly and theta by Gauss's rule
    ([`idemodels.AbstractMarkovKernel.propagate`][]). At the theta so predicted the one new gradient
    is taken, the polynomial is put through it as well, and the step is made anew. What the two
    differ by is the error, in theta with that of the velocity for as long as the fastest memory
    lasts.

    So the step is bounded by how the gradient changes, never by how fast a memory forgets, and
    saving costs no gradient: the dense output is the step's own polynomial.

    A start, at s = 0 or after a jump, fills the past with gradients inside of the first step,
    1 + (order - 1)(order - 2)/2 of them, so that the first step has the order of the others.

    The term must be that of an [`idemodels.Equation`][] of first order.

    Source: the predictor-corrector pair of Adams, as in Hairer, Nørsett & Wanner (1993), section
    III.1, of which the last evaluation is left out; with the variation-of-constants formula for the
    memories, as in exponential integrators: Hochbruck & Ostermann (2010),
    doi:10.1017/S0962492910000048.

    **Arguments:**

    - `order`: of convergence, 2 to 6. For errors of 1e-3 of the path 3 needs the fewest gradients,
        for 1e-9 it is 6.

    **Raises:** `ValueError` for another order; on use, for a term that is not of an `Equation`, or
    of one with inertia.
    """

    _order: int = eqx.field(static=True)
    _short: float | None = eqx.field(static=True)
    _reports: bool = eqx.field(static=True)

    term_structure: ClassVar = dfx.ODETerm

    def __init__(self, order: int = 3, *, _short: float | None = None, _reports: bool = False):
        if order not in ORDERS:
            raise ValueError(f"Argument `order` must be one of {ORDERS}, but is {order!r}.")
        self._order, self._short, self._reports = int(order), _short, _reports

    @property
    def first_gradients(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return 0 if self._short is None else 1

    @property
    def interpolation_cls(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        return _interpolation(self._order)

    def reporting(self, rtol, atol, origin, short):
        """**Returns:** itself, with errors that are `Reported`."""
        return ExponentialMultistep(self._order, _short=short, _reports=True)

    def order(self, terms):
        return self._order

    def error_order(self, terms):
        return float(self._order)

    def init(self, terms, t0, t1, y0, args):
        """**Returns:** a past that is still to be filled; a gradient only with short steps."""
        equation = first_order(terms, type(self).__name__)
        size = self._order - 1
        where = -jnp.arange(size, dtype=dtype_of(y0.theta))
        if self._short is None:
            empty = lambda x: jnp.zeros((size, *x.shape), x.dtype)
            return _Past(where, jax.tree.map(empty, y0.theta), jnp.zeros_like(where[0]))
        g = equation.gradient(y0.theta, y0.fixed)
        gradients = jax.tree.map(lambda g: jnp.broadcast_to(g, (size, *g.shape)), g)
        return _Past(where, gradients, jnp.ones_like(where[0]))

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    @traced_once
    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        del args
        equation = equation_of(terms)
        dtype = dtype_of(y0.theta)
        model = cast(equation.model, dtype)
        h = jnp.asarray(t1 - t0, dtype)
        # under vmap a lane that has ended steps by 0: by as much as before instead, so that what it
        # makes, which is dropped, is finite
        before = -solver_state.lags[1] if self._order > 2 else jnp.ones_like(h)
        h = jnp.maximum(jnp.where(h > 0, h, before), _least(dtype))
        fresh = (solver_state.count == 0) | made_jump
        if self._short is None:
            past = self._filled(equation, model, t0, h, y0, solver_state, fresh)
        else:
            past = solver_state.begun(made_jump)
        exact = ExactStep.of(model, t0, h, self._order)
        line = _Line.of(
            past.lags / h, past.there(self._short is None), nodes_for(self._order).inside
        )

        predicted = line.predicted(past.gradients)
        uncorrected = predicted[:-1]
        foretold, _, foretold_d = exact(y0.theta, y0.memory, uncorrected)
        ahead = exact.after(foretold, y0.theta)
        brief, kick = None, None
        if self._short is not None:
            brief = is_short(h, self._short)
            newest = jax.tree.map(lambda g: g[0], past.gradients)
            kick = KickDrift.of(model, t0, h, y0, newest)
            ahead = jax.tree.map(lambda a, b: jnp.where(brief, a, b), kick.ahead, ahead)
        new = equation.gradient(ahead, y0.fixed)
        after = line.corrected(predicted, new)
        way, memory, d = exact(y0.theta, y0.memory, after)
        theta1 = exact.after(way, y0.theta)

        # an error in the velocity lasts as long as the memory that forgets it first
        lasting = jnp.max(exact.alpha) * memory_time(model, dtype)
        g0 = past.at_start(fresh & (self._short is None))
        overlooked = exact.overlooked(d, (y0.theta, y0.memory, g0), (theta1, memory, new))
        e_theta = jax.tree.map(
            lambda x, x0, v, v0, more: jnp.abs(x - x0) + lasting * jnp.abs(v - v0) + more,
            *(way, foretold, d[-1], foretold_d[-1], overlooked),
        )
        e_memory = {}
        for name, m in model.memories().items():
            surprise = [
                jax.tree.map(jnp.subtract, m.of(a), m.of(b))
                for a, b in zip(after, uncorrected, strict=True)
            ]
            learnt = exact.learnt(name, surprise)
            e_memory[name] = jax.tree.map(lambda z: _MEMORY_ERROR * z, learnt)
        info: Any = {"y0": y0, "h": h, "past": past, "new": new, "model": Split.of(model)}
        if brief is not None and kick is not None:
            path, e_short = kick.finished(new)
            of_short = path.y1.theta, path.y1.memory, e_short
            theta1, memory, e_theta = jax.tree.map(
                lambda a, b: jnp.where(brief, a, b), of_short, (theta1, memory, e_theta)
            )
            e_memory = jax.tree.map(lambda e: jnp.where(brief, 0.0, e), e_memory)
            info["short"] = (brief, path)
        y1 = Augmented(theta1, memory, y0.fixed)
        error: Any = Augmented(e_theta, e_memory, y0.fixed)
        if self._reports:
            starting = 1 + (self._order - 1) * (self._order - 2) // 2
            taken = jnp.where(fresh & (self._short is None), 1 + starting, 1)
            error = Reported(error, taken.astype(dtype))
        return y1, error, info, past.after(h, new), dfx.RESULTS.successful

    def _filled(
        self, equation: Equation, model: Any, t0: Any, h: Scalar, y0: Any, past: Any, fresh: Flag
    ) -> "_Past":
        """`past`, or, where it is `fresh`, one that is made for this step."""

        def start():
            made = self._start(equation, model, t0, h, y0)
            return jax.tree.map(lambda new, old: jnp.where(fresh, new, old), made, past)

        # a true branch under vmap too: in most steps no lane starts
        return jax.lax.cond(eqxi.unvmap_any(fresh), jax.checkpoint(start), lambda: past)

    def _start(self, equation: Equation, model: Any, t0: Any, h: Scalar, y0: Any) -> "_Past":
        """Gradients at the fractions j/k of the step to come, each of the order of the method.

        The path up to each is found with the polynomial through those before it, again and again:
        the stage q is exact to order q, with q + 1 points.
        """
        k = self._order - 1
        newest_first = (k - 1 - np.arange(k)) / k
        g0 = equation.gradient(y0.theta, y0.fixed)
        gradients = jax.tree.map(lambda g: jnp.broadcast_to(g, (k, *g.shape)), g0)

        def refine(gradients, item):
            weights, fraction, row = item
            exact = ExactStep.of(model, t0, fraction * h, self._order)
            way, _, _ = exact(y0.theta, y0.memory, combine(weights, rows(gradients)))
            theta = exact.after(way, y0.theta)
            g = equation.gradient(theta, y0.fixed)
            return jax.tree.map(lambda all, g: all.at[row].set(g), gradients, g), None

        if k > 1:
            items = jax.tree.map(lambda x: jnp.asarray(x, h.dtype), _stages(self._order))
            places = jnp.asarray([k - 1 - j for q in range(1, k) for j in range(1, q + 1)])
            gradients, _ = jax.lax.scan(refine, gradients, (*items, places))
        return _Past(jnp.asarray(newest_first, h.dtype) * h, gradients, jnp.full_like(h, k))


class _Past(eqx.Module):
    """The gradients that the next step is foretold from, newest first.

    - `lags`: when they were taken, from the step's start on: 0, then negative; at a start, which
        takes them inside of the step, down to 0.
    - `gradients`: leaves `(order - 1, *shape)`.
    - `count`: how many there are; a float, since diffrax fills dense output with infinity.
    """

    lags: Float[Array, " k"]
    gradients: PyTree[Array]
    count: Scalar

    def there(self, filled: bool) -> Bool[Array, " k"]:
        """Which of them there are: all, known to the compiler, where a start has `filled` it."""
        if filled:
            return jnp.ones(self.lags.size, bool)
        return jnp.arange(self.lags.size, dtype=self.lags.dtype) < self.count

    def begun(self, jump: Any) -> "_Past":
        """What still counts: after a jump only the newest gradient."""
        return _Past(self.lags, self.gradients, jnp.where(jump, 1.0, self.count))

    def at_start(self, filled: Flag) -> PyTree[Array]:
        """The gradient where the step starts; `filled` where it is the first after a start."""
        return jax.tree.map(lambda g: jnp.where(filled, g[-1], g[0]), self.gradients)

    def after(self, h: Scalar, new: PyTree[Array]) -> "_Past":
        """The past of the next step, with the `new` gradient at the end of this one."""
        lags = jnp.concatenate([jnp.zeros_like(self.lags[:1]), self.lags[:-1] - h])
        push = lambda old, new: jnp.concatenate([new[None], old[:-1]])
        count = jnp.minimum(self.count + 1, self.lags.size)
        return _Past(lags, jax.tree.map(push, self.gradients, new), count)


class _Line(eqx.Module):
    """The polynomial through the past gradients, and the one through the new gradient as well.

    - `basis`: what the first is made of, at the nodes and at the step's end.
    - `bump`: at the nodes, the polynomial that is 0 at the past ones and 1 at the step's end.
    """

    basis: Float[Array, "ends k"]
    bump: Float[Array, " n"]

    @classmethod
    def of(cls, x: Float[Array, " k"], there: Bool[Array, " k"], at: Any) -> "_Line":
        """`x`: where the past ones are, `at`: the nodes, both in units of the step."""
        at = jnp.asarray(at, x.dtype)
        factors = jnp.where(there[None], (at[:, None] - x[None]) / (1.0 - x)[None], 1.0)
        basis = jax.vmap(lambda at: masked_lagrange(x, there, at))(jnp.append(at, 1.0))
        return cls(basis, jnp.prod(factors, axis=1))

    def predicted(self, past: PyTree[Array]) -> list[PyTree[Array]]:
        """The gradient at each node and at the end, from those of the past: `(k, *shape)`."""
        return combine(self.basis, rows(past))

    def corrected(self, predicted: list[PyTree[Array]], new: PyTree[Array]) -> list[PyTree[Array]]:
        """The gradient at each node, with the `new` one at the step's end."""
        *inside, end = predicted
        surprise = jax.tree.map(jnp.subtract, new, end)
        add = lambda w: lambda g, extra: g + w * extra
        return [jax.tree.map(add(w), g, surprise) for w, g in zip(self.bump, inside, strict=True)]


class _Interpolation(dfx.AbstractLocalInterpolation):
    """The step once more, but only up to where it is asked for."""

    order: int = eqx.field(static=True)
    t0: Any
    t1: Any
    y0: Augmented
    h: Scalar
    past: _Past
    new: PyTree[Array]
    model: Split
    short: Any = None  # whether the step is short, and what its path is then

    @traced_once
    def evaluate(self, t0, t1=None, left=True):
        del left
        if t1 is not None:
            return jax.tree.map(jnp.subtract, self.evaluate(t1), self.evaluate(t0))
        y0, model = self.y0, self.model.whole
        way = jnp.asarray(t0 - self.t0, self.h.dtype)
        started = way > 0
        way = jnp.where(started, way, self.h)
        exact = ExactStep.of(model, self.t0, way, self.order)
        at = jnp.asarray(nodes_for(self.order).inside, way.dtype) * (way / self.h)
        line = _Line.of(self.past.lags / self.h, self.past.there(self.short is None), at)

        along = line.corrected(line.predicted(self.past.gradients), self.new)
        moved, memory, _ = exact(y0.theta, y0.memory, along)
        y = Augmented(exact.after(moved, y0.theta), memory, y0.fixed)
        if self.short is not None:
            brief, path = self.short
            y = jax.tree.map(lambda a, b: jnp.where(brief, a, b), path(way / self.h), y)
        return jax.tree.map(lambda a, b: jnp.where(started, a, b), y, y0)


def _least(dtype: Any) -> float:
    """The shortest step whose powers are numbers; nothing moves in it."""
    return float(jnp.finfo(dtype).tiny) ** (1 / max(ORDERS))


@functools.cache
def _interpolation(order: int) -> Any:
    """One object for each order: diffrax compiles anew where it differs."""
    return functools.partial(_Interpolation, order=order)


@functools.cache
def _stages(order: int) -> tuple[np.ndarray, np.ndarray]:
    """For each gradient of a start: the weights of those there are, and its place in the step."""
    k, inside = order - 1, nodes_for(order).inside
    weights, places = [], []
    for q in range(1, k):
        for j in range(1, q + 1):
            W = np.zeros((inside.size, k))
            for p in range(q):
                others = np.array([i for i in range(q) if i != p])
                W[:, k - 1 - p] = np.prod((inside[:, None] * j - others) / (p - others), axis=1)
            weights.append(W)
            places.append(j / k)
    return np.array(weights), np.array(places)
