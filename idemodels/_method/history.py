"""Direct quadrature of the memory integrals."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._checks import all_finite, check_count, is_concrete
from .._equation import Augmented, fraction_of, quotient
from .._kernel import check_kernel
from .._model import AbstractModel
from .._programs import program
from .._results import RESULTS
from .._types import Count, Flag, Scalar
from .base import AbstractMethod, Answer, Problem, is_advanced
from .cells import Weights, sampled_lags
from .convolution import BLOCK, Online, blocks, room, span_levels
from .norms import largest
from .start import Mover, Powers

# Sweeps of the fixed point over the first few steps, which are found together.
_SWEEPS = 10
# A moment that must not be negative is, below this part of its largest value on the path: FFTs
# leave rounding errors of that value's size.
_CLAMPED = 1e-9

# For each memory by name: raveled features or moments.
_Vectors = dict[str, Float[Array, " p"]]


class History(AbstractMethod):
    r"""Computes the memory integrals of (E1) themselves, for any kernel; no state space is used.

    On a uniform grid the features are linear between the points and integrated exactly against the
    kernel; theta steps by a predictor and a corrector of order 2, with two gradients each. Of order
    2 for smooth kernels and for singular ones with an exponent of 0.3 or more, whose powers of s at
    the start are taken care of (see `Powers`), as long as the direction is smooth in the moments:
    the root of one that starts from 0 and is not debiased costs half an order.

    Needs $O(N \log^2 N)$ time and $O(N)$ numbers a parameter for N steps, so it is for few
    parameters, or short paths.

    There is no error control: halve the step to see the error. A sum over the past is exact to
    rounding relative to its largest terms, so a moment that fades below 1e-16 of what it was is
    lost in it.

    It is differentiated through its steps, in both modes; `adjoint` is not used, and `state0` not
    taken.

    **Arguments:**

    - `substeps`: steps of the grid for each optimizer step.
    - `steps`: of the grid, from 0 to the last of `ts`, instead. Needed where `ts` is traced; not
        where a traced function closes over it.

    Between the grid's points the path is interpolated, at an order that does not spoil it.

    **Raises:** `ValueError` for arguments below 1.
    """

    substeps: int = eqx.field(default=1, static=True)
    steps: int | None = eqx.field(default=None, static=True, kw_only=True)

    def __check_init__(self):
        for name in ("substeps", "steps"):
            value = getattr(self, name)
            if value is not None or name != "steps":
                check_count(value, name)

    def solves(self, model):
        """**Returns:** whether it reads no memory ahead and its velocity is finite at the start."""
        return (
            isinstance(model, AbstractModel) and not is_advanced(model) and not model.singular_start
        )

    def prepare(self, ts, state0, dtype):
        """**Returns:** a method that knows how many steps there are, if `ts` says.

        **Raises:** `ValueError` if there is a `state0`.
        """
        del dtype
        if state0 is not None:
            raise ValueError(
                "Argument `state0` must be None for the method `idemodels.History`, whose memories "
                "are their whole past. `idemodels.Markov()` goes on from a state."
            )
        if self.steps is not None or not is_concrete(ts):
            return self
        # an end that is a step but for rounding is one
        steps = math.ceil(float(np.asarray(ts)[-1]) * self.substeps * (1.0 - 1e-6))
        return dataclasses.replace(self, steps=max(steps, 1))

    def run(self, problem, adjoint):
        del adjoint
        if self.steps is None:
            raise ValueError(
                "Argument `steps` must be given to `idemodels.History` where `ts` is traced, but "
                "is None: how many steps the grid has must be known. Write "
                "`idemodels.History(steps=1000)`, or close over `ts`."
            )
        weights = _weigh(problem, self.steps)
        if is_concrete(weights):
            _check_sound(problem, weights, self.steps)
        return _march(problem, weights, self.steps)


def _check_sound(problem: Problem, weights: dict[str, Weights], steps: int) -> None:
    """Raises if a kernel is negative, infinite or NaN where it was sampled, or its integral is."""
    for name, memory in problem.equation.model.memories().items():
        if bool(jnp.all(weights[name].sound)):
            continue
        h, what = (
            float(problem.ts[-1]) / steps,
            f"kernel of {name!r}, {type(memory.kernel).__name__}",
        )
        check_kernel(memory.kernel, sampled_lags(h, steps), what)
        raise ValueError(
            f"Argument `{what}` must have a finite `integral`, but it is not at lag {h:.3g}."
        )


@program
def _weigh(problem: Problem, steps: int) -> dict[str, Weights]:
    h = _step_size(problem, steps)
    memories = problem.equation.model.memories()
    return {name: Weights.of(m.kernel, h, steps) for name, m in memories.items()}


def _step_size(problem: Problem, steps: int) -> Scalar:
    h = problem.ts[-1] / steps
    return jnp.where(problem.valid & (h > 0), h, 1.0)  # otherwise nothing is wanted but the start


class _Raveled(eqx.Module):
    """The equation on vectors."""

    problem: Problem
    unravel: Callable[..., Any] = eqx.field(static=True)
    unravel_moment: dict[str, Callable[..., Any]] = eqx.field(static=True)

    @classmethod
    def of(cls, problem: Problem) -> "_Raveled":
        unravel = ravel_pytree(problem.y0.theta)[1]
        memories = problem.equation.model.memories().items()
        shapes = {name: ravel_pytree(m.of(problem.g0))[1] for name, m in memories}
        return cls(problem, unravel, shapes)

    def gradient(self, theta: Array) -> PyTree[Array]:
        return self.problem.equation.gradient(self.unravel(theta), self.problem.y0.fixed)

    def features(self, g: PyTree[Array]) -> _Vectors:
        memories = self.problem.equation.model.memories().items()
        return {name: ravel_pytree(m.of(g))[0] for name, m in memories}

    def moments(self, moments: _Vectors) -> dict[str, PyTree[Array]]:
        return {name: self.unravel_moment[name](m) for name, m in moments.items()}

    def pull(self, s: Scalar, theta: Array, g: PyTree[Array], moments: _Vectors) -> Array:
        """The right-hand side of (E1) over the learning rate: what is linear in a cell."""
        model, tree = self.problem.equation.model, self.unravel(theta)
        fraction = fraction_of(model, s, tree, g, self.moments(moments))
        leaf = lambda d, x: -(d + model.weight_decay * x)
        return ravel_pytree(jax.tree.map(leaf, quotient(fraction), tree))[0]


class _Rows(eqx.Module):
    """Consecutive points of the grid, or one of them.

    - `state`: `(theta,)`, or `(theta, velocity)`.
    - `pull`: what the next step starts from.
    - `finite`: whether all that was computed there is.
    """

    state: tuple[Array, ...]
    moments: dict[str, Array]
    pull: Array
    finite: Bool[Array, "*n"]

    @classmethod
    def at(cls, state: tuple[Array, ...], moments: dict[str, Array], pull: Array) -> "_Rows":
        """One point."""
        return cls(state, moments, pull, all_finite((state, moments, pull)))


class _Start(eqx.Module):
    """The first few points of the grid, and the pull's powers of s that are fitted to them."""

    rows: _Rows
    features: dict[str, Array]
    coefficients: Array


@program
def _march(problem: Problem, weights: dict[str, Weights], steps: int) -> Answer:
    h = _step_size(problem, steps)
    model = problem.equation.model
    powers = Powers.of(model, steps, h.dtype)
    mover = Mover(h, model, powers, problem.breakpoints / h)
    field = _Raveled.of(problem)
    pushes, sound_rate = mover.pushes(steps)
    start = _begin(field, weights, mover, pushes)
    rest = steps - powers.last
    rows = start.rows
    if rest:
        later = _go_on(_Step(field, weights, mover, start), pushes, steps)
        rows = jax.tree.map(lambda a, b: jnp.concatenate([a, b[:rest]]), rows, later)
    gradients = 1 + _SWEEPS * powers.last + 2 * rest
    sound = jnp.all(jnp.stack([jnp.ones((), bool), *(w.sound for w in weights.values())]))
    path = _Interpolant(mover, pushes, start, rows)
    return _answer(field, path, sound, sound_rate, gradients)


def _begin(field: _Raveled, weights: dict[str, Weights], mover: Mover, pushes: Array) -> _Start:
    """The points 0..`powers.last`, all at once, by fixed-point sweeps over them."""
    y0, g0 = field.problem.y0, field.problem.g0
    h, powers, last = mover.h, mover.powers, mover.powers.last
    s = h * jnp.arange(last + 1, dtype=h.dtype)
    state0 = tuple(ravel_pytree(x)[0] for x in (y0.theta, y0.velocity) if x is not None)
    feature0 = field.features(g0)
    pull0 = field.pull(s[0], state0[0], g0, jax.tree.map(jnp.zeros_like, feature0))
    prepend = lambda x0, x: jnp.concatenate([x0[None], x])

    def sweep(pull, _):
        coefficients = powers.fit(pull)

        def step(state, x):
            now, then, push = x
            state = mover(state, push, _sources(now, then, coefficients))
            return state, state

        _, state = jax.lax.scan(step, state0, (pull[:-1], pull[1:], pushes[:last]))
        gs = jax.lax.map(field.gradient, state[0])
        features = jax.tree.map(prepend, feature0, jax.vmap(field.features)(gs))
        moments = {name: _first_rows(weights[name], last) @ f for name, f in features.items()}
        after = {name: m[1:] for name, m in moments.items()}
        pull = prepend(pull0, jax.vmap(field.pull)(s[1:], state[0], gs, after))
        return pull, (jax.tree.map(prepend, state0, state), moments, features)

    pull = jnp.broadcast_to(pull0, (last + 1, pull0.size))
    pull, paths = jax.lax.scan(sweep, pull, length=_SWEEPS)
    state, moments, features = jax.tree.map(lambda x: x[-1], paths)
    rows = jax.vmap(_Rows.at)(state, moments, pull)
    return _Start(rows, features, powers.fit(pull))


def _sources(now: Array, then: Array, coefficients: Array) -> Float[Array, "q p"]:
    """What a push is multiplied with: the pull at both ends of a cell, and its powers."""
    return jnp.concatenate([now[None], then[None], coefficients])


def _first_rows(weights: Weights, last: int) -> Float[Array, "n n"]:
    """The matrix from features to moments on the points 0..`last`."""
    n = np.arange(last + 1)
    lag = n[:, None] - n[None]
    inside = (lag >= 0) & (n[None] > 0)
    matrix = jnp.where(inside, weights.lags[np.maximum(lag, 0) % last], 0.0)
    return matrix.at[1:, 0].set(weights.first[:last])


class _Step(eqx.Module):
    """A step after the start: a predictor and a corrector, each with a gradient."""

    field: _Raveled
    weights: dict[str, Weights]
    mover: Mover
    start: _Start

    def __call__(self, known: tuple, sums: _Vectors, x: tuple) -> tuple[tuple, _Vectors, _Rows]:
        """**Arguments:** the state with its pull and the one before; each memory without the new
        point; and of the new point s, the weights of the start, and the push on the way to it."""
        state, now, before = known
        s, lead, push = x
        sums = {name: sums[name] + lead[name] @ f for name, f in self.start.features.items()}
        move = lambda then: self.mover(state, push, _sources(now, then, self.start.coefficients))
        foretold = move(2.0 * now - before)
        _, _, pull = self._evaluate(s, foretold, sums)
        state = move(pull)
        features, moments, pull = self._evaluate(s, state, sums)
        return (state, pull, now), features, _Rows.at(state, moments, pull)

    def _evaluate(
        self, s: Scalar, state: tuple, sums: _Vectors
    ) -> tuple[_Vectors, _Vectors, Array]:
        g = self.field.gradient(state[0])
        features = self.field.features(g)
        newest = {name: self.weights[name].lags[0] * f for name, f in features.items()}
        moments = {name: sums[name] + new for name, new in newest.items()}
        return features, moments, self.field.pull(s, state[0], g, moments)


def _go_on(advance: _Step, pushes: Array, steps: int) -> _Rows:
    """The points after the start, and idle ones up to a whole number of blocks.

    The scan over blocks is nested, with a checkpoint at each level, so that a gradient keeps about
    2 sqrt(N/128) copies of the past instead of N/128.
    """
    weights, start = advance.weights, advance.start
    h, first = advance.mover.h, advance.mover.powers.last + 1
    rest = steps + 1 - first
    outer = math.ceil(math.sqrt(blocks(rest)))
    inner = -(-blocks(rest) // outer)
    online = {name: Online.of(w.lags, rest) for name, w in weights.items()}

    def go(known, sums, x):  # `cond` hashes its branches, and a module with arrays has no hash
        return advance(known, sums, x)

    def idle(known, sums, x):
        return known, sums, _Rows(known[0], sums, known[1], jnp.ones((), bool))

    def step(carry, x):
        known, sums = carry
        r, alive, x = x
        here = jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, r, 0, False), sums)
        known, features, rows = jax.lax.cond(alive, go, idle, known, here, x)
        sums = {name: online[name].push(sums[name], r, f) for name, f in features.items()}
        return (known, sums), (features, rows)

    def block(carry, x):
        known, buffers = carry
        k, level, xs = x
        at = k * BLOCK
        sums = jax.tree.map(lambda b: jax.lax.dynamic_slice_in_dim(b, at, BLOCK), buffers)
        (known, _), (features, rows) = jax.lax.scan(step, (known, sums), (jnp.arange(BLOCK), *xs))
        put = lambda b, f: jax.lax.dynamic_update_slice_in_dim(b, f, at, 0)
        buffers = jax.tree.map(put, buffers, features)
        buffers = {name: online[name].close(b, k + 1, level) for name, b in buffers.items()}
        return (known, buffers), rows

    @jax.checkpoint
    def many(carry, x):
        return jax.lax.scan(jax.checkpoint(block), carry, x)

    def arrange(x):
        x = x[:rest]
        x = jnp.pad(x, [(0, outer * inner * BLOCK - rest)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(outer, inner, BLOCK, *x.shape[1:])

    n = jnp.arange(first, steps + 1)
    lead = {name: _lead(w, n, first) for name, w in weights.items()}
    x = (h * n.astype(h.dtype), lead, pushes[first - 1 :])
    xs = jax.tree.map(arrange, (jnp.ones(rest, bool), x))
    k = jnp.arange(outer * inner).reshape(outer, inner)
    level = jnp.asarray(span_levels(rest, outer * inner)).reshape(outer, inner)
    empty = {
        name: jnp.zeros((room(rest), f.shape[1]), f.dtype) for name, f in start.features.items()
    }
    state = jax.tree.map(lambda x: x[-1], start.rows.state)
    known = (state, start.rows.pull[-1], start.rows.pull[-2])
    _, rows = jax.lax.scan(many, (known, empty), (k, level, xs))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), rows)


def _lead(weights: Weights, n: Int[Array, " n"], first: int) -> Float[Array, "n first"]:
    """What the points n of the grid have of the features at 0..`first` - 1."""
    columns = [weights.first[n - 1], *(weights.lags[n - q] for q in range(1, first))]
    return jnp.stack(columns, axis=1)


def _answer(
    field: _Raveled,
    path: "_Interpolant",
    sound: Flag,
    sound_rate: Bool[Array, " n"],
    gradients: int,
) -> Answer:
    """The path where it is wanted, and how it ended."""
    problem = field.problem
    y0, ts, rows, h = problem.y0, problem.ts, path.rows, path.mover.h
    theta = rows.state[0]
    steps = theta.shape[0] - 1
    largest_of = jax.vmap(largest)
    bad = ~(rows.finite & (largest_of(theta) <= 1e8 * (1.0 + largest(y0.theta))))
    bad = bad.at[1:].set(bad[1:] | ~sound_rate)
    failed = jnp.any(bad)
    last = jnp.where(failed, jnp.maximum(jnp.argmax(bad) - 1, 0), steps)
    last = jnp.where(problem.valid, last, 0)

    fixed = y0.fixed

    def keep(s):
        theta, moments = path(s, last)
        y = Augmented(field.unravel(theta), {}, fixed)
        return problem.keep(s, y, field.moments(moments))

    kept = jax.lax.map(keep, ts)
    end = [field.unravel(x[last]) for x in rows.state]
    y = Augmented(end[0], {}, fixed, end[1] if len(end) > 1 else None)
    s = jnp.where(last == steps, ts[-1], h * last.astype(h.dtype))

    next_one = jnp.minimum(last + 1, steps)
    result = RESULTS.where(rows.finite[next_one], RESULTS.diverged, RESULTS.nonfinite_gradient)
    result = RESULTS.where(sound_rate[next_one - 1], result, RESULTS.nonfinite_rate)
    result = RESULTS.where(failed, result, RESULTS.successful)
    stats: dict[str, Any] = {
        "num_steps": jnp.asarray(steps, int),
        "num_rejected": jnp.zeros((), int),
        "num_gradients": jnp.asarray(gradients, int),
        "implicit_from": jnp.asarray(jnp.inf, h.dtype),
    }
    if problem.equation.model.nonnegative:
        reached = jnp.arange(steps + 1) <= last
        moments = [rows.moments[name] for name in problem.equation.model.nonnegative]
        clamped = _count_negative(moments, reached)
        stats["num_clamped"] = clamped
        result = RESULTS.where(clamped > 0, RESULTS.negative_second_moment, result)
    result = RESULTS.where(sound, result, RESULTS.invalid_kernel)
    result = RESULTS.where(problem.valid, result, RESULTS.invalid_argument)
    return Answer(kept, s, y, result, stats)


def _count_negative(moments: list[Array], reached: Bool[Array, " n"]) -> Count:
    """At how many points a moment is below zero by more than rounding."""
    negative = jnp.zeros(reached.shape, bool)
    for m in moments:
        m = jnp.where(reached[:, None], m, 0.0)
        negative = negative | jnp.any(m < -_CLAMPED * largest(m), axis=1)
    return jnp.sum(negative)


class _Interpolant(eqx.Module):
    """The path between the points of the grid.

    Theta goes on from the point before as the steps did, whatever the learning rate does there; the
    moments are cubic, or at a singular start as the fitted powers say.
    """

    mover: Mover
    pushes: Array
    start: _Start
    rows: _Rows

    def __call__(self, s: Scalar, last: Count) -> tuple[Array, _Vectors]:
        """**Arguments:** `last`: the last good point of the grid."""
        x = s / self.mover.h
        moments = self._cubic(x, last, self.rows.moments)
        powers = self.mover.powers
        if powers.singular and not self.mover.inertial:
            early, values = x < powers.last, powers.at(x)
            fitted = lambda m: values @ powers.fit(m[: powers.last + 1])
            moments = {
                name: jnp.where(early, fitted(self.rows.moments[name]), m)
                for name, m in moments.items()
            }
        return self._theta(x, last), moments

    def _theta(self, x: Scalar, last: Count) -> Array:
        n = jnp.clip(jnp.floor(x).astype(int), 0, jnp.maximum(last - 1, 0))
        part = x - n.astype(x.dtype)
        then = jnp.minimum(n + 1, last)
        state = tuple(values[n] for values in self.rows.state)
        sources = _sources(self.rows.pull[n], self.rows.pull[then], self.start.coefficients)
        move = lambda push, part: self.mover(state, push, sources, part)[0]
        # the corrector ends where its own pull led: the way from there is shared along the cell
        beside = self.rows.state[0][then] - move(self.pushes[n], 1.0)
        theta = move(self.mover.push_to(n, part), part) + part * beside
        return jnp.where(last > 0, theta, state[0])

    def _cubic(self, x: Scalar, last: Count, tree: PyTree[Array]) -> PyTree[Array]:
        """Lagrange's polynomial through the four nearest points, or all, if they are fewer."""
        points = min(4, self.rows.finite.size)
        most = jnp.maximum(last - points + 1, 0)
        i = jnp.clip(jnp.floor(x).astype(int) - 1, 0, most)
        t = x - i.astype(x.dtype)
        weights = jnp.stack(
            [math.prod((t - k) / (j - k) for k in range(points) if k != j) for j in range(points)]
        )
        # past the last good point its own value
        near = jnp.minimum(i + jnp.arange(points), last)
        return jax.tree.map(lambda values: weights @ values[near], tree)
