"""The advanced equation, whose moments are read one step ahead: a fixed point over the path."""

import dataclasses
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
from jaxtyping import Array, Float, PyTree, Shaped

from .._checks import check_count, is_concrete
from .._equation import Augmented, cast, fraction_of, quotient
from .._programs import program
from .._results import RESULTS
from .._types import Count, Flag, Path, Scalar
from .base import AbstractMethod, Answer, Problem, is_advanced, is_markov
from .collocation import (
    NODES,
    Foretold,
    Mesh,
    Point,
    Swept,
    basis,
    held_step,
    look_ahead,
    make_mesh,
    moved,
    points,
    reach_to,
    really_ahead,
    solves_dense,
    sweep,
)
from .forward_mode import with_forward_mode
from .linear import Quiet
from .mesh import closure_density
from .norms import largest
from .rate import Usable, find_breaks, in_short_panels
from .rodas5p import IMPLICIT_PARAMETERS

# Where the number of elements is not given: the first, tried on, doubled up to the last.
_FIRST, _FIRST_LARGE, _LAST, _TRACED = 128, 16, 2048, 256
# Elements in each of the two parts of the extension.
_BEYOND = 8
# Breaks of the learning rate that are looked for in the first part.
_BREAKS_BEYOND = 4
# Between the nodes, where the equation is checked.
_BETWEEN = 0.5 * (np.append(0.0, NODES[:-1]) + NODES)


class FixedPoint(AbstractMethod):
    """Solves the advanced equation: by collocation, and Newton-Krylov over the whole path.

    A path that reads its second moment at s + 1 depends on the gradient one step ahead of it, and
    so no integrator can run along it. Here each sweep solves the equation forwards with that moment
    foretold, from the last sweep and the gradient now; the fixed point of the sweeps is found by
    Newton's method, with GMRES, from the closure. The elements lie where the closure's path turns.

    Elements end where the learning rate jumps or has a kink, and it is integrated inside them as it
    is. A jump that is not known, as in a traced call, makes the mesh too coarse; it is not missed.
    Past the end a rate that is not finite or below 0 counts as 0.

    The path on [0, N] reads the gradient up to N + 1, that on [N, N + 1] up to N + 2, and so on:
    the interval is extended by `extension` steps, past which the gradient is held. `stats` tells
    three errors apart, each absolute in theta but the first:

    - `residual`: of the equation at the nodes, over the largest velocity: of the fixed point.
    - `solver_error`: what the equation lacks between the nodes, over an element: of the mesh.
    - `extension_doubled`, `extension_zeroed`: how far the path on [0, N] moves when the extension
        is doubled, and when its end gradient is set to zero instead of held.

    `num_sweeps` counts Newton's iterations, or plain sweeps where an element's equations are solved
    without a matrix: from 43 parameters on, or where the gradient has no derivative in either mode;
    `num_steps` the elements. Gradients are not counted.
    Derivatives, forward and reverse, are those of the implicit function theorem, whatever the
    `adjoint`.

    **Arguments:**

    - `tol`: what `solver_error` may be, over the largest way that theta makes.
    - `residual_tol`: what `residual` may be; at least a thousand roundings.
    - `elements`: how many on [0, N], and at least four for each place that is kept for a break of
        the learning rate; `None` doubles them from 128 (from 16 where parameters
        are many) until `tol` is kept, up to 2048.
        In a traced call, which cannot try, `None` is 256.
    - `extension`: optimizer steps past the end.
    - `max_sweeps`: iterations to the fixed point.

    A fixed point that is not reached is `RESULTS.fixed_point_not_reached`, too coarse a mesh
    `RESULTS.mesh_too_coarse`; the path is NaN then.

    **Raises:** `ValueError` for an argument that is not positive; on use, for an empty array among
    the parameters.
    """

    tol: float = eqx.field(default=1e-8, kw_only=True)
    residual_tol: float = eqx.field(default=1e-10, kw_only=True)
    elements: int | None = eqx.field(default=None, kw_only=True)
    extension: float = eqx.field(default=16.0, kw_only=True)
    max_sweeps: int = eqx.field(default=40, kw_only=True)

    def __check_init__(self):
        for name in ("tol", "residual_tol", "extension"):
            value = getattr(self, name)
            if not isinstance(value, float | int) or not 0 < value < float("inf"):
                raise ValueError(f"Argument `{name}` must be a positive number, but is {value!r}.")
        for name in ("elements", "max_sweeps"):
            value = getattr(self, name)
            if value is not None or name != "elements":
                check_count(value, name)

    def solves(self, model: Any):
        """**Returns:** whether it reads a memory ahead; not singular at the start, nor inertial."""
        if not is_advanced(model) or not is_markov(model):
            return False
        return not (model.singular_start or model.inertial)

    def run(self, problem, adjoint):
        del adjoint
        for leaf in jax.tree.leaves(problem.y0.theta):
            if not leaf.size:
                raise ValueError(
                    "Argument `theta0` must have no empty arrays for the method "
                    f"`idemodels.FixedPoint`, but has one of shape {leaf.shape}. Leave it out, or "
                    "put it into the objective."
                )
        equation = with_forward_mode(problem.equation, problem.y0)
        if equation is not None:
            problem = dataclasses.replace(problem, equation=equation)
        few = solves_dense(problem.parameters) and equation is not None
        if self.elements is not None or not is_concrete(problem):
            return _solve(self, problem, self.elements or _TRACED, few)
        elements = _FIRST if solves_dense(problem.parameters) else _FIRST_LARGE
        answer = _solve(self, problem, elements, few)
        # a fixed point may be missed because the closure is resolved too coarsely
        retried = (RESULTS.mesh_too_coarse, RESULTS.fixed_point_not_reached)
        while elements < _LAST and any(answer.result == result for result in retried):
            elements *= 2
            answer = _solve(self, problem, elements, few)
        return answer


@program
def _solve(method: FixedPoint, problem: Problem, elements: int, few: bool) -> Answer:
    """`few`: whether equations are solved by Newton's method, with matrices."""
    rate = _rate(problem)
    ts, (inner, near, far) = _elements(method, problem, rate, elements, few)
    memories = _memories(problem)

    cuts, holds = jnp.array([near, far, near]), jnp.array([True, True, False])
    elements_only = make_mesh(memories, rate, ts)
    first = look_ahead(memories, elements_only, cuts[0], holds[0])
    closure = sweep(problem.equation, problem.y0, first, _as_closure(problem, first), few)

    unit = _unit(problem, first, closure)

    def solved(added, cut_and_hold):
        mesh = look_ahead(memories, elements_only, *cut_and_hold)
        added, sweeps = _fixed_point(method, problem, mesh, unit, added, few)
        return added, (_sweep(problem, mesh, added, few), sweeps)

    # the answer, the extension doubled, its end zeroed: one program for the three
    start = _added(problem, first, closure)
    _, (paths, sweeps) = jax.lax.scan(solved, start, (cuts, holds))
    path = jax.tree.map(lambda x: x[0], paths)
    moves = [
        jnp.max(jnp.abs(x[1:, :inner] - x[:1, :inner]).reshape(2, -1), axis=1, initial=0.0)
        for x in jax.tree.leaves(paths.theta)
    ]
    moves = jnp.max(jnp.stack(moves), axis=0)
    between = look_ahead(memories, make_mesh(memories, rate, ts, _BETWEEN), cuts[0], holds[0])
    lack_between = _lack(problem, between, *_between(problem, first, between, path))
    missed, sound_rate = _missed(problem, rate, first, path, inner)
    stats = {
        "num_steps": jnp.asarray(inner),
        "num_rejected": jnp.zeros((), int),
        "num_gradients": jnp.asarray(-1),
        "implicit_from": jnp.asarray(jnp.inf, ts.dtype),
        "num_sweeps": sweeps[0],
        "residual": _residual(_lack(problem, first, path, path.u), path.u, inner),
        "solver_error": jnp.maximum(_apart(first, lack_between, inner), missed),
        "extension_doubled": jax.lax.stop_gradient(moves[0]),
        "extension_zeroed": jax.lax.stop_gradient(moves[1]),
    }
    return _answer(method, problem, rate, first, path, sound_rate, stats)


def _answer(
    method: FixedPoint,
    problem: Problem,
    rate: Usable,
    mesh: Mesh,
    path: Swept,
    sound_rate: Flag,
    stats: dict[str, Any],
) -> Answer:
    least = 1e3 * float(jnp.finfo(mesh.ts.dtype).eps)
    way = largest(jax.tree.map(lambda x, x0: x - x0[None, None], path.theta, problem.y0.theta))
    # written so that NaN is a failure
    fine = stats["solver_error"] <= max(method.tol, least) * way
    result = RESULTS.where(fine, RESULTS.successful, RESULTS.mesh_too_coarse)
    reached = stats["residual"] <= max(method.residual_tol, least)
    result = RESULTS.where(reached, result, RESULTS.fixed_point_not_reached)
    result = RESULTS.where(sound_rate, result, RESULTS.nonfinite_rate)
    result = RESULTS.where(problem.valid, result, RESULTS.invalid_argument)
    okay = result == RESULTS.successful
    rows = jax.vmap(lambda s: _state_at(problem, rate, mesh, path, s))(problem.ts)
    kept = jax.vmap(problem.keep)(problem.ts, rows)
    y = jax.tree.map(lambda x, x0: jnp.where(okay, x[-1], x0), rows, problem.y0)
    return Answer(kept, jnp.where(okay, problem.ts[-1], problem.ts[0]), y, result, stats)


def _memories(problem: Problem) -> dict[str, Any]:
    return cast(problem.equation.model, problem.ts.dtype).memories()


def _rate(problem: Problem) -> Usable:
    ts = problem.ts
    return Usable(cast(problem.equation.model, ts.dtype), 0.5 * (ts[0] + ts[-1]))


def _elements(
    method: FixedPoint, problem: Problem, rate: Usable, elements: int, few: bool
) -> tuple[Path, tuple[int, int, int]]:
    """The ends of all elements: on the interval, and twice on the extension.

    **Returns:** also how many elements lie before the end of each of the three parts.
    """
    start, end = problem.ts[0], problem.ts[-1]
    end = jnp.maximum(end, start + 1e-3)  # a path of one point
    middle = end + method.extension
    last = middle + method.extension
    breaks = _breaks(problem, rate, end, middle)
    found = breaks.size if rate.varies else 0
    here = _within(breaks, start, end, found)
    beyond = _within(breaks, end, middle, min(found, 2 * _BREAKS_BEYOND))
    # at least half of the elements go where the path turns
    inner, near = max(elements, 2 * here.size), max(_BEYOND, 2 * beyond.size)
    density = closure_density(problem, last, few and problem.parameters <= IMPLICIT_PARAMETERS)
    parts = [
        density.spread(start, end, inner, here),
        density.spread(end, middle, near, beyond)[1:],
        density.spread(middle, last, _BEYOND, here[:0])[1:],
    ]
    ts = jax.lax.stop_gradient(jnp.concatenate(parts))
    return ts, (inner, inner + near, inner + near + _BEYOND)


def _breaks(problem: Problem, rate: Usable, end: Scalar, middle: Scalar) -> Float[Array, " b"]:
    """Where elements should end: at breaks of the learning rate, and where they are read ahead."""
    known = problem.breakpoints
    if not rate.varies:
        return known
    later = find_breaks(rate, end, middle, _BREAKS_BEYOND)
    both = jnp.concatenate([known, later])
    ahead = {m.ahead for m in _memories(problem).values()}
    all_of_them = jnp.sort(jnp.concatenate([both - a for a in sorted({0, *ahead})]))
    # one for those that are the same but for rounding
    apart = jnp.diff(all_of_them, prepend=-jnp.inf)
    close = apart <= _rounding(all_of_them)
    return jax.lax.stop_gradient(jnp.sort(jnp.where(close, jnp.inf, all_of_them)))


def _within(breaks: Array, start: Scalar, end: Scalar, most: int) -> Float[Array, " b"]:
    """Those strictly between, padded with infinity."""
    inside = (breaks > start + _rounding(start)) & (breaks < end - _rounding(end))
    return jnp.sort(jnp.where(inside, breaks, jnp.inf))[:most]


def _rounding(s: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """How far apart two steps are that are taken for one."""
    least = max(1e-9, 64.0 * float(jnp.finfo(s.dtype).eps))
    return least * (1.0 + jnp.abs(jnp.where(jnp.isfinite(s), s, 0.0)))


def _as_closure(problem: Problem, mesh: Mesh) -> dict[str, Foretold]:
    """The gradient stays what it is."""
    like = lambda value: lambda x: jnp.full((*mesh.s.shape, *x.shape), value, x.dtype)
    memories = {name: m for name, m in _memories(problem).items() if m.ahead}
    features = {name: m.of(problem.g0) for name, m in memories.items()}
    return {
        name: Foretold(jax.tree.map(like(0.0), f), jax.tree.map(like(1.0), f))
        for name, f in features.items()
    }


def _added(problem: Problem, mesh: Mesh, path: Swept) -> dict[str, Any]:
    """What each memory gains in the step ahead: by the path itself, and with the feature held."""
    added = {}
    for name, m in _memories(problem).items():
        if m.ahead:
            step = jax.vmap(lambda z, f, m=m: held_step(m, z, f))
            kept, held = step(path.z[name], path.f[name])
            gained = jax.tree.map(jnp.subtract, really_ahead(m, mesh, name, path), kept)
            frozen = mesh.ahead[name].frozen
            own = lambda a, b, frozen=frozen: jnp.where(_over(frozen, a), b, a)
            added[name] = (jax.tree.map(own, gained, held), held)
    return added


def _foretold(added: dict[str, Any]) -> dict[str, Foretold]:
    """The next sweep's foretelling: as much of the gain as may be follows its own gradient."""

    def share(gained, held):
        some = held != 0
        return jnp.where(some, jnp.clip(gained / jnp.where(some, held, 1.0), 0.0, 1.0), 0.0)

    out = {}
    for name, (gained, held) in added.items():
        omega = jax.tree.map(share, gained, held)
        c = jax.tree.map(lambda a, b, o: a - o * b, gained, held, omega)
        out[name] = Foretold(c, omega)
    return out


def _sweep(problem: Problem, mesh: Mesh, added: dict[str, Any], few: bool) -> Swept:
    return sweep(problem.equation, problem.y0, mesh, _foretold(added), few)


def _unit(problem: Problem, mesh: Mesh, closure: Swept) -> dict[str, Any]:
    """The size of what is added: the closure's moment, which fades by many powers of ten."""
    unit = {}
    for name, m in _memories(problem).items():
        if m.ahead:
            size = jax.tree.map(jnp.abs, really_ahead(m, mesh, name, closure))
            size = jax.tree.map(lambda x: x + 1e-30 * (1.0 + largest(x)), size)
            unit[name] = jax.lax.stop_gradient((size, size))
    return unit


def _fixed_point(
    method: FixedPoint,
    problem: Problem,
    mesh: Mesh,
    unit: dict[str, Any],
    start: dict[str, Any],
    few: bool,
) -> tuple[dict[str, Any], Count]:
    """What is added at the fixed point, and the iterations to it from `start`.

    By Newton's method with GMRES, or where parameters are not `few` by sweep after sweep.
    """
    eps = float(jnp.finfo(mesh.ts.dtype).eps)
    tolerance = max(0.1 * method.residual_tol, 100 * eps)

    def lack(x, args):
        problem, mesh, unit = args
        added = jax.tree.map(jnp.multiply, x, unit)
        new = _added(problem, mesh, _sweep(problem, mesh, added, few))
        return jax.tree.map(lambda a, b, u: (a - b) / u, new, added, unit)

    def next_sweep(x, args):
        return jax.tree.map(jnp.add, x, lack(x, args))

    begin, args = jax.tree.map(jnp.divide, start, unit), (problem, mesh, unit)
    exact = Quiet(
        lx.GMRES(1e-2 * tolerance, 1e-2 * tolerance, largest, restart=20, stagnation_iters=20)
    )
    options = {
        "args": args,
        "max_steps": method.max_sweeps,
        "adjoint": optx.ImplicitAdjoint(linear_solver=exact),
        "throw": False,
    }
    if few:
        # lineax runs through all iterations before a restart
        linear = Quiet(lx.GMRES(1e-6, 1e-2 * tolerance, largest, restart=10, stagnation_iters=10))
        newton = optx.Newton(tolerance, tolerance, norm=largest, linear_solver=linear)
        solution = optx.root_find(lack, newton, begin, **options)
    else:  # a sweep is as dear as what Newton's method would save
        picard = optx.FixedPointIteration(tolerance, tolerance, norm=largest)
        solution = optx.fixed_point(next_sweep, picard, begin, **options)
    added = jax.tree.map(jnp.multiply, solution.value, unit)
    return added, jnp.asarray(solution.stats["num_steps"])


def _between(
    problem: Problem, mesh: Mesh, between: Mesh, path: Swept
) -> tuple[Swept, PyTree[Array]]:
    """The path at the other points of its elements, and u there."""
    values = jnp.asarray(basis(_BETWEEN), mesh.ts.dtype)

    def element(theta0, z0, u, f, reach, inside):
        theta = jax.vmap(moved, (None, None, 0))(theta0, u, reach)
        z = {
            name: jax.vmap(Point.__call__, (0, None, None))(inside[name], z0[name], f[name])
            for name in z0
        }
        return theta, z, jax.tree.map(lambda u: jnp.tensordot(values, u, 1), u)

    args = (path.theta0, path.z0, path.u, path.f, between.reach, between.inside)
    theta, z, u = jax.vmap(element)(*args)
    gradient = lambda x: problem.equation.gradient(x, problem.y0.fixed)
    g = jax.vmap(jax.vmap(gradient))(theta)
    return Swept(path.theta0, path.z0, path.u, path.f, g, theta, z), u


def _lack(problem: Problem, mesh: Mesh, path: Swept, u: PyTree[Array]) -> PyTree[Array]:
    """What u lacks of the direction, at all points."""
    model = cast(problem.equation.model, mesh.ts.dtype)
    moments = {}
    for name, m in model.memories().items():
        if m.ahead:
            moments[name] = really_ahead(m, mesh, name, path)
        else:
            moments[name] = jax.vmap(jax.vmap(m.markov.read))(path.z[name])
    of = jax.vmap(jax.vmap(partial(fraction_of, problem.equation.model)))
    direction = quotient(of(mesh.s, path.theta, path.g, moments))
    lack = lambda d, x, u: d + model.weight_decay * x - u
    return jax.tree.map(lack, direction, path.theta, u)


def _residual(lack: PyTree[Array], u: PyTree[Array], elements: int) -> Scalar:
    """The largest lack on the first elements, over the largest u there."""
    first = lambda tree: jax.tree.map(lambda x: x[:elements], tree)
    size = largest(first(u))
    return jax.lax.stop_gradient(largest(first(lack)) / jnp.where(size > 0, size, 1.0))


def _apart(mesh: Mesh, lack: PyTree[Array], elements: int) -> Scalar:
    """The largest way in theta that the lack makes over its element, on the first elements."""
    way = jnp.sum(mesh.reach[:elements, -1], axis=1)  # the basis polynomials' sum is 1
    apart = jax.tree.map(lambda x: x[:elements] * _over(way, x), lack)
    return jax.lax.stop_gradient(largest(apart))


def _missed(
    problem: Problem, rate: Usable, mesh: Mesh, path: Swept, elements: int
) -> tuple[Scalar, Flag]:
    """The largest way in theta by which an element's rule misses the learning rate's integral.

    As far as the path up to the end reads it; and whether the rate was `is_sound` up to there.
    """
    if not rate.varies:
        return jnp.zeros((), mesh.ts.dtype), rate.is_sound(problem.ts[0])
    way = jnp.sum(mesh.reach[:, -1], axis=1)
    finer, sound = in_short_panels(rate, mesh.ts)
    ahead = max(m.ahead for m in _memories(problem).values())
    read = mesh.ts[:-1] < problem.ts[-1] + ahead
    lost = jnp.where(read, jnp.abs(finer - way), 0.0)
    missed = largest(jax.tree.map(lambda u: u * _over(lost, u), path.u))
    return jax.lax.stop_gradient(missed), jnp.all(sound[:elements])


def _state_at(problem: Problem, rate: Usable, mesh: Mesh, path: Swept, s: Scalar) -> Augmented:
    """The dense output at step `s`."""
    i = jnp.clip(jnp.searchsorted(mesh.ts, s, side="right") - 1, 0, mesh.h.size - 1)
    pick = lambda tree: jax.tree.map(lambda x: x[i], tree)
    h, offset = mesh.h[i], s - mesh.ts[i]
    reach = reach_to(rate, mesh.ts[i], h, offset)
    theta = moved(pick(path.theta0), pick(path.u), reach)
    memory = {
        name: points(m.markov, offset, h)(pick(path.z0[name]), pick(path.f[name]))
        for name, m in _memories(problem).items()
    }
    return Augmented(theta, memory, problem.y0.fixed)


def _over(x: Shaped[Array, "*first"], like: Float[Array, "*all"]) -> Shaped[Array, "*ones"]:
    """With axes of length one behind, to stand beside `like`."""
    return x.reshape(x.shape + (1,) * (like.ndim - x.ndim))
