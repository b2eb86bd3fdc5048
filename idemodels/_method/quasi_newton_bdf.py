"""An implicit multistep solver for expensive gradients, which takes no Hessian."""

from typing import Any, ClassVar

import diffrax as dfx
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import lineax as lx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree

from .._checks import check_count
from .._equation import Augmented, Equation, cast, dtype_of, equation_of, fraction_of, quotient
from .._model import AbstractModel
from .._programs import traced_once
from .._types import Count, Flag, Scalar
from .base import constant
from .exact_step import ExactStep, masked_lagrange, mix, nodes_for
from .kick_drift import KickDrift, is_short, of_gradient
from .norms import memory_time
from .reporting import AbstractReporting, Reported, first_order
from .split import Split

_ORDER = 3
# An error of the velocity lasts as long as the memory that forgets first. Measured on the digits
# network, 2000 steps, at one tolerance: an error of 1.3e-2 with 146 gradients without this share,
# of 1.0e-3 with 288.
_LASTING = 3.0
# The iteration ends where what it still lacks is this part of the tolerance.
_ENOUGH = 0.3
_ITERATIONS, _NOISY = 4, 0.5
# How much of the last correction the next is expected to be, before anything is known; and by
# which factor that rises in each step whose first correction was enough, so that now and then a
# second tells.
_RATE, _FORGET = 0.3, 1.5
# Singular values below this part of the largest are noise of the gradients' differences.
_NOISE = 1e-6
# A gradient is taken where it was foretold if the change to it is steeper, by this factor, than
# any that was seen. It is wrong if it differs by this part of that change, and by so many
# tolerances of theta: differences across a kink explain away whatever they are asked to.
_STEEPER, _WRONG, _MATTERS = 3.0, 0.5, 10.0
# The part of a memory's error that counts: it is read under a root, in a quotient.
_MEMORY_ERROR = 0.1
# Derivatives: of so many parameters the whole matrix is solved, of more by GMRES, up to so exactly.
_DENSE, _LINEAR, _LINEAR_STEPS = 64, 1e-4, 40
# The nodes at which a feature such as g^2 is taken in the exact step of a memory.
_NODES = nodes_for(4)


class _Interpolation(dfx.AbstractLocalInterpolation):
    """The polynomials of the formula; other memories once more, up to where it is asked for."""

    t0: Any
    t1: Any
    y0: Augmented
    x: Float[Array, " q"]
    there: Bool[Array, " q"]
    known: Any
    h: Scalar
    model: Split
    short: Any = None  # whether the step is short, and what its path is then

    @traced_once
    def evaluate(self, t0, t1=None, left=True):
        del left
        if t1 is not None:
            return jax.tree.map(jnp.subtract, self.evaluate(t1), self.evaluate(t0))
        y0, model = self.y0, self.model.whole
        tree = ravel_pytree(y0.theta)[1]
        thetas, linear, gradients = self.known
        way = jnp.asarray(t0 - self.t0, self.h.dtype)
        started = way > 0
        way = jnp.where(started, way, self.h)
        weights = masked_lagrange(self.x, self.there, way / self.h)
        exact = ExactStep.of(model, self.t0, way, _NODES.count)
        inside = jnp.asarray(_NODES.inside, way.dtype) * (way / self.h)
        along = jax.vmap(lambda at: masked_lagrange(self.x, self.there, at))(inside)
        memory = {}
        for name, m in model.memories().items():
            if name in linear:
                z = jnp.einsum("q,qkp->kp", weights, linear[name])
            else:
                features = [m.feature(mix(w, gradients)) for w in along]
                z = exact.end(name, jax.vmap(_flat)(y0.memory[name]), features)
            memory[name] = jax.vmap(tree)(z)
        y = Augmented(tree(mix(weights, thetas)), memory, y0.fixed)
        if self.short is not None:
            brief, path = self.short
            y = jax.tree.map(lambda a, b: jnp.where(brief, a, b), path(way / self.h), y)
        return jax.tree.map(lambda a, b: jnp.where(started, a, b), y, y0)


class QuasiNewtonBDF(AbstractReporting):
    r"""The backward differentiation formula of order 3, solved with differences of gradients.

    For gradients that cost far more than the rest. The formula is stable where a parameter relaxes
    within the step, which bounds every explicit method; its equations are solved with what the
    last `pairs` gradients tell of the Hessian, kept from step to step: mostly one gradient a step.

    Theta, and memories of the gradient itself, are in the formula; other memories, of its square,
    are propagated exactly under the polynomial through the last gradients. It starts itself, with
    order 1, in steps whose error is controlled like any other. The error is that of theta, with
    that of the velocity for as long as the fastest memory of the gradient lasts.

    The term must be that of an [`idemodels.Equation`][] of first order. Derivatives are those of
    the equations of a step, by the implicit function theorem: they take the gradient's own.

    Source: the formula with variable steps as in Hairer, Nørsett & Wanner (1993), section III.5;
    the iteration is the multisecant one of Fang & Saad (2009), doi:10.1002/nla.617.

    **Arguments:**

    - `pairs`: differences of gradients that are kept, each with one of theta: two copies of the
        parameters. Some dozen more are kept beside them.
    - `rtol`, `atol`: the tolerances of the step-size controller, a tenth of which is left to the
        iteration. [`idemodels.Markov`][] fills in its own.

    **Raises:** `ValueError` if `pairs` is no positive integer; on use, for a term that is not of an
    `Equation`, or of one with inertia.
    """

    pairs: int = eqx.field(static=True)
    rtol: Any
    atol: Any
    _origin: PyTree[Array] | None
    _short: float | None = eqx.field(static=True)
    _reports: bool = eqx.field(static=True)

    term_structure: ClassVar = dfx.ODETerm
    first_gradients: ClassVar = 1
    interpolation_cls: ClassVar = _Interpolation

    def __init__(
        self,
        pairs: int = 20,
        *,
        rtol: Any = 1e-6,
        atol: Any = 1e-9,
        _origin: PyTree[Array] | None = None,
        _short: float | None = None,
        _reports: bool = False,
    ):
        check_count(pairs, "pairs")
        self.pairs, self.rtol, self.atol = pairs, rtol, atol
        self._origin, self._short, self._reports = _origin, _short, _reports

    def reporting(self, rtol, atol, origin, short):
        """**Returns:** itself with these tolerances, and errors that are `Reported`."""
        more = {"_origin": origin, "_short": short, "_reports": True}
        return QuasiNewtonBDF(self.pairs, rtol=rtol, atol=atol, **more)

    def _tolerance(self, theta: Array, predicted: Array, h: Scalar) -> Float[Array, " p"]:
        """How exact the end of a step must be: as the controller has it, where it is known."""
        if self._origin is None:
            return self.atol + self.rtol * jnp.abs(theta)
        reach = jnp.max(jnp.abs(theta - _flat(self._origin)))
        pace = jnp.max(jnp.abs(predicted - theta)) * jnp.maximum(1.0, 1.0 / h)
        rounding = 4.0 * jnp.finfo(theta.dtype).eps * jnp.abs(theta)
        return self.atol + self.rtol * jnp.maximum(reach, pace) + rounding

    def order(self, terms):
        return _ORDER

    def error_order(self, terms):
        return float(_ORDER + 1)

    def init(self, terms, t0, t1, y0, args):
        """**Returns:** what is known at the start, with one gradient."""
        equation = first_order(terms, type(self).__name__)
        g = _flat(equation.gradient(y0.theta, y0.fixed))
        copies = lambda x: jnp.broadcast_to(x, (self.pairs + 1, *x.shape))
        none = _Secants(jnp.zeros((), int), copies(_flat(y0.theta)), copies(g))
        return _begun(equation, t0, y0, g, none)

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    @traced_once
    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        del args
        equation = equation_of(terms).with_closure(y0)
        dtype = dtype_of(y0.theta)
        model = cast(equation.model, dtype)
        h = jnp.asarray(t1 - t0, dtype)
        h = jnp.where(h > 0, h, 1.0)  # under vmap a lane that has ended steps by 0
        known = _after_jump(equation, t0, y0, solver_state, made_jump)
        formula = _Formula.of(equation, model, t0, h, y0, known)
        predicted = formula.predicted(known.theta)
        brief, kick = jnp.zeros((), bool), None
        if self._short is not None:
            brief = is_short(h, self._short)
            kick = KickDrift.of(model, t0, h, y0, formula.tree(known.gradients[0]))
            predicted = jnp.where(brief, _flat(kick.ahead), predicted)
        start = _Iterate(
            predicted,
            known.gradients[0],
            known.secants,
            known.rate,
            jnp.zeros((), dtype),
            jnp.zeros((), int),
            jnp.zeros((), bool),
        )
        tolerance = self._tolerance(known.theta[0], predicted, h)
        going = lambda it: ~it.done & (it.count < _ITERATIONS)
        held, start, tolerance = constant((formula, start, tolerance))
        improved = lambda it: held.improved(it, tolerance, brief)
        found = jax.lax.while_loop(going, improved, start)
        theta, g = _solution(formula, predicted, brief, found.theta, found.gradient)
        memory, unseen, lasting = formula.memories(g), {}, None
        if self._origin is not None:
            unseen, lasting = formula.unforeseen(g), known.memory
        weight = 1.0 + _LASTING * memory_time(model, dtype, lasting) / h
        error = weight * jnp.abs(formula.defect * (theta - predicted))
        error = jnp.where(found.done & jnp.all(jnp.isfinite(error)), error, jnp.inf)
        tree, more = formula.tree, {}
        if kick is not None:
            # where nothing is found, what is known without: should it have to be accepted
            path, e_short = kick.finished(tree(jnp.where(brief, g, known.gradients[0])))
            kicked = {n: jax.vmap(_flat)(z) for n, z in path.y1.memory.items()}
            brief = brief | ~found.done
            theta, memory, g = jax.tree.map(
                lambda a, b: jnp.where(brief, a, b),
                (_flat(path.y1.theta), kicked, jnp.where(found.done, g, known.gradients[0])),
                (theta, memory, g),
            )
            error = jnp.where(brief & found.done, _flat(e_short), error)
            more["short"] = (brief, path)
        y1 = Augmented(tree(theta), {n: jax.vmap(tree)(z) for n, z in memory.items()}, y0.fixed)
        unseen = jax.tree.map(lambda e: jnp.where(brief, 0.0, e), unseen)
        e_memory = jax.tree.map(jnp.zeros_like, y0.memory)
        e_memory |= {n: jax.vmap(tree)(e) for n, e in unseen.items()}
        y_error: Any = Augmented(tree(error), e_memory, y0.fixed)
        if self._reports:
            y_error = Reported(y_error, found.count.astype(dtype))
        after = known.after(h, theta, memory, g, found)
        info = {
            "y0": y0,
            "x": after.lags / h + 1.0,
            "there": after.used,
            "known": (after.theta, after.memory, after.gradients),
            "h": h,
            "model": Split.of(model),
            **more,
        }
        return y1, y_error, info, after, dfx.RESULTS.successful


class _Secants(eqx.Module):
    """The last points at which a gradient was taken, newest first, and the gradients.

    - `count`: how many there are.
    """

    count: Count
    theta: Float[Array, "k p"]
    gradients: Float[Array, "k p"]

    def with_point(self, theta: Array, g: Array) -> "_Secants":
        return _Secants(self.count + 1, _pushed(theta, self.theta), _pushed(g, self.gradients))

    def of_one_side(self, wrong: Flag) -> "_Secants":
        """Of the newest two alone, where all together foretold what is `wrong`."""
        count = jnp.where(wrong, jnp.minimum(self.count, 2), self.count)
        return _Secants(count, self.theta, self.gradients)

    def differences(self) -> tuple[Float[Array, "r p"], Float[Array, "r p"]]:
        """Those of neighbours; zero where there are none yet."""
        size = self.theta.shape[0] - 1
        there = (jnp.arange(size) < self.count - 1)[:, None]
        of = lambda x: jnp.where(there, x[:-1] - x[1:], 0.0)
        return of(self.theta), of(self.gradients)


class _Known(eqx.Module):
    """The past of the path, newest first, theta and gradients as flat arrays.

    - `count`: how many of the points there are, two at least; the formula uses one less, so that
        the others foretell its end to one order more than its own.
    - `lags`: when they were, from now.
    - `memory`: of the memories in the formula, leaves `(points, k, p)`.
    - `rate`: by how much a correction is smaller than the one before it.
    """

    count: Count
    lags: Float[Array, " q"]
    theta: Float[Array, "q p"]
    memory: dict[str, Float[Array, "q k p"]]
    gradients: Float[Array, "q p"]
    secants: _Secants
    rate: Scalar

    @property
    def there(self) -> Bool[Array, " q"]:
        """Which of the points there are."""
        return jnp.arange(self.lags.size) < self.count

    @property
    def used(self) -> Bool[Array, " q"]:
        """Which of them the formula uses."""
        return jnp.arange(self.lags.size) < jnp.minimum(self.count - 1, _ORDER)

    def after(self, h: Scalar, theta: Array, memory: Any, g: Array, found: Any) -> "_Known":
        lags = jnp.concatenate([jnp.zeros_like(self.lags[:1]), self.lags[:-1] - h])
        return _Known(
            self.count + 1,
            lags,
            _pushed(theta, self.theta),
            {name: _pushed(memory[name], z) for name, z in self.memory.items()},
            _pushed(g, self.gradients),
            found.secants,
            jnp.where(found.count == 1, found.forgotten, found.rate),
        )


def _begun(equation: Equation, s: Any, y: Augmented, g: Array, secants: _Secants) -> _Known:
    """What is known at a start: the state, and by its velocity where it was a step before."""
    theta, memory = _flat(y.theta), _linear(equation.model, y.memory)
    as_tree = ravel_pytree(y.theta)[1](g)
    direction = quotient(equation.fraction(s, y, as_tree))
    before = theta - _flat(equation.pull(s, y.theta, direction))
    filled = lambda x: jnp.broadcast_to(x, (_ORDER + 1, *x.shape))
    return _Known(
        jnp.full((), 2),
        -jnp.arange(_ORDER + 1, dtype=theta.dtype),
        filled(before).at[0].set(theta),
        {name: filled(z) for name, z in memory.items()},
        filled(g),
        secants,
        jnp.asarray(_RATE, theta.dtype),
    )


def _after_jump(equation: Equation, s: Any, y: Augmented, known: _Known, jump: Any) -> _Known:
    """What still counts: nothing from before a jump, but what is known of the Hessian."""
    jump = jnp.asarray(jump)

    def anew():
        begun = _begun(equation, s, y, known.gradients[0], known.secants)
        return jax.tree.map(lambda a, b: jnp.where(jump, a, b), begun, known)

    return jax.lax.cond(eqxi.unvmap_any(jump), anew, lambda: known)


class _Iterate(eqx.Module):
    """Where the iteration for the end of a step stands."""

    theta: Float[Array, " p"]
    gradient: Float[Array, " p"]  # at theta, as the secants foretell it
    secants: _Secants
    rate: Scalar
    last: Scalar  # the size of the last correction, in tolerances
    count: Count
    done: Flag

    @property
    def forgotten(self) -> Scalar:
        """The rate, a little nearer to what it is before anything is known."""
        return jnp.maximum(self.rate, jnp.minimum(_FORGET * self.rate, _RATE))


class _Formula(eqx.Module):
    """The equations of one step: `weights` @ thetas = h theta', the newest theta unknown."""

    equation: Equation
    model: AbstractModel
    y0: Augmented
    exact: ExactStep
    h: Scalar
    s: Scalar
    alpha: Scalar
    lead: Scalar
    weights: Float[Array, " q"]
    ahead: Float[Array, " q"]
    defect: Scalar
    along: Float[Array, "n r"]
    foretold: Float[Array, "n q"]
    known: _Known

    @classmethod
    def of(cls, equation: Any, model: Any, t0: Any, h: Scalar, y0: Any, known: _Known) -> Any:
        x = jnp.concatenate([jnp.ones_like(known.lags[:1]), known.lags / h])
        new = jnp.ones(1, bool)
        there = jnp.concatenate([new, known.used])
        value = lambda at: masked_lagrange(x, there, at)
        slope = jax.jvp(value, (x[0],), (jnp.ones_like(x[0]),))[1]
        s = jnp.asarray(t0, h.dtype) + h
        alpha = model.alpha(s)
        # Milne's device: the formula's error, by the distance from the extrapolation
        oldest = x[1:][jnp.minimum(known.count, _ORDER + 1) - 1]
        defect = 1.0 / ((1.0 - oldest) * slope[0])
        inside = jnp.asarray(_NODES.inside, h.dtype)
        return cls(
            equation,
            model,
            y0,
            ExactStep.of(model, t0, h, _NODES.count),
            h,
            s,
            alpha,
            slope[0],
            slope[1:],
            masked_lagrange(x[1:], known.there, x[0]),
            defect,
            jax.vmap(value)(inside),
            jax.vmap(lambda at: masked_lagrange(x[1:], known.used, at))(inside),
            known,
        )

    def predicted(self, past: Float[Array, "q p"]) -> Float[Array, " p"]:
        return mix(self.ahead, past)

    def tree(self, x: Float[Array, " p"]) -> PyTree[Array]:
        return ravel_pytree(self.y0.theta)[1](x)

    def memories(self, g: Float[Array, " p"]) -> dict[str, Float[Array, "k p"]]:
        """The states at the end, if the gradient there is `g`."""
        out = {}
        for name, m in self.model.memories().items():
            if name in self.known.memory:
                A, B, _ = (z.astype(g.dtype) for z in m.markov.state_space())
                past = jnp.einsum("q,qkp->kp", self.weights, self.known.memory[name])
                right = self.h * B[:, None] * g[None] - past
                matrix = self.lead * jnp.eye(B.size, dtype=g.dtype) - self.h * A
                scalar = B.size == 1
                out[name] = right / matrix if scalar else jnp.linalg.solve(matrix, right)
            else:
                gradients = jnp.concatenate([g[None], self.known.gradients])
                features = [m.feature(mix(w, gradients)) for w in self.along]
                state = jax.vmap(_flat)(self.y0.memory[name])
                out[name] = self.exact.end(name, state, features)
        return out

    def unforeseen(self, g: Float[Array, " p"]) -> dict[str, Float[Array, "k p"]]:
        """The errors of memories that are not in the formula: what the past did not foretell."""
        known = self.known
        gradients, errors = jnp.concatenate([g[None], known.gradients]), {}
        for name, m in self.model.memories().items():
            if name not in known.memory:
                pairs = zip(self.along, self.foretold, strict=True)
                surprise = [
                    m.feature(mix(w, gradients)) - m.feature(mix(v, known.gradients))
                    for w, v in pairs
                ]
                errors[name] = _MEMORY_ERROR * jnp.abs(self.exact.learnt(name, surprise))
        return errors

    def direction(self, theta: Float[Array, " p"], g: Float[Array, " p"]) -> Float[Array, " p"]:
        memories, states = self.model.memories(), self.memories(g)
        moments = {name: self.tree(m.markov.read(states[name])) for name, m in memories.items()}
        at = (self.s, self.tree(theta), self.tree(g), moments)
        return _flat(quotient(fraction_of(self.model, *at)))

    def gradient(self, theta: Float[Array, " p"]) -> Float[Array, " p"]:
        return _flat(self.equation.gradient(self.tree(theta), self.y0.fixed))

    def residual(self, theta: Float[Array, " p"], g: Float[Array, " p"]) -> Float[Array, " p"]:
        """What is 0 at the end of the step, with `g` the gradient there."""
        pull = self.h * self.alpha
        past = mix(self.weights, self.known.theta)
        kept = (self.lead + pull * self.model.weight_decay) * theta
        return kept + past + pull * self.direction(theta, g)

    def improved(self, it: _Iterate, tolerance: Float[Array, " p"], only: Flag) -> _Iterate:
        """One gradient, and the correction that it and those before it suggest.

        - `only`: the gradient alone.
        """
        g = self.gradient(it.theta)
        slide = lambda g: self.direction(it.theta, g)
        d, bend = jax.jvp(slide, (g,), (jnp.ones_like(g),))
        pull = self.h * self.alpha
        decay = pull * self.model.weight_decay
        size_of = lambda x: jnp.sqrt(jnp.mean((x / tolerance) ** 2))
        felt = lambda g: size_of(pull * bend * g)
        first = it.count == 0
        # a gradient that is not as foretold tells of a kink that lies between the points
        told, off = it.gradient - it.secants.gradients[0], g - it.gradient
        wrong = (
            ~first
            & (jnp.linalg.norm(off) > _WRONG * jnp.linalg.norm(told))
            & (felt(off) > _MATTERS)
        )
        secants = it.secants.with_point(it.theta, g).of_one_side(wrong)
        S, G = secants.differences()
        past = mix(self.weights, self.known.theta)
        residual = (self.lead + decay) * it.theta + past + pull * d
        # what each difference would change in it
        changes = (self.lead + decay) * S + pull * bend[None] * G
        share = _least_squares(changes, residual)
        rest = residual - mix(share, changes)
        way, change = mix(share, S), mix(share, G)
        step = jnp.where(only, 0.0, -way - rest / (self.lead + decay))
        size = size_of(step)
        seen = jnp.maximum(0.2 * it.rate, size / jnp.where(first, 1.0, it.last))
        seen = jnp.where(wrong, jnp.maximum(seen, 1.0), jnp.minimum(seen, 2.0))
        rate = jnp.where(first | only, it.rate, seen)
        foretold = jnp.where(only, g, g - change)
        # noise of the gradient keeps a correction from becoming smaller than it
        noisy = ~first & (size <= _NOISY)
        done = (jnp.minimum(rate, 1.0) * size <= _ENOUGH) | noisy
        unseen = jnp.linalg.norm(change) > _STEEPER * _steepness(S, G) * jnp.linalg.norm(way)
        done = only | (done & ~(first & unseen & (felt(change) > 1.0)))
        return _Iterate(it.theta + step, foretold, secants, rate, size, it.count + 1, done)


@eqx.filter_custom_jvp
def _solution(formula: _Formula, ahead: Array, short: Flag, theta: Array, g: Array) -> Any:
    """`theta` and `g`, which solve the formula, with the derivatives of what they solve.

    - `ahead`: theta of a `short` step, which solves nothing.
    """
    del formula, ahead, short
    return theta, g


@_solution.def_jvp
def _solution_jvp(primals: Any, tangents: Any) -> Any:
    formula, _, short, theta, g = primals
    of_formula, of_ahead, *_ = tangents
    whole = lambda formula, theta: formula.residual(theta, formula.gradient(theta))
    at = lambda f: lambda formula: f(formula, theta)
    zero = lambda x: jnp.zeros_like(theta) if x is None else x  # no part of it is perturbed
    slope = lambda f: zero(eqx.filter_jvp(at(f), (formula,), (of_formula,))[1])
    moved = _inverse(lambda theta: whole(formula, theta), theta, slope(whole))
    of_theta = jnp.where(short, zero(of_ahead), -moved)
    of_g = jax.jvp(formula.gradient, (theta,), (of_theta,))[1]
    of_g = of_g + slope(lambda formula, theta: formula.gradient(theta))
    return (theta, g), (of_theta, of_g)


def _inverse(f: Any, x: Float[Array, " p"], y: Float[Array, " p"]) -> Float[Array, " p"]:
    """The vector that the derivative of `f` at `x` makes `y` of."""
    if x.size <= _DENSE:
        return jnp.linalg.solve(jax.jacfwd(f)(x), y)
    operator = lx.FunctionLinearOperator(jax.linearize(f, x)[1], jax.eval_shape(lambda: x))
    solver = lx.GMRES(rtol=_LINEAR, atol=0.0, max_steps=_LINEAR_STEPS, restart=_LINEAR_STEPS)
    return lx.linear_solve(operator, y, solver, throw=False).value


def _flat(tree: PyTree[Array]) -> Float[Array, " p"]:
    return ravel_pytree(tree)[0]


def _linear(model: AbstractModel, memory: dict[str, PyTree[Array]]) -> dict[str, Array]:
    """The states of the memories of the gradient itself, whoever wrote the feature."""
    mine = of_gradient(model)
    return {name: jax.vmap(_flat)(z) for name, z in memory.items() if name in mine}


def _least_squares(rows: Float[Array, "r p"], target: Float[Array, " p"]) -> Float[Array, " r"]:
    """The combination of `rows` nearest to `target`, without directions that are noise.

    By the normal equations of rows of length 1: a singular value decomposition of the rows takes
    LAPACK many times as long as the gradient, and what they lose the next iteration makes good.
    Rows of their own lengths would lose the shortest, which are the newest.
    """
    lengths = jnp.linalg.norm(rows, axis=1)
    there = lengths > 0
    scale = jnp.where(there, 1.0 / jnp.where(there, lengths, 1.0), 0.0)
    rows = scale[:, None] * rows
    squares, u = jnp.linalg.eigh(jnp.matmul(rows, rows.T, precision="highest"))
    least = jnp.maximum(_NOISE**2, 100 * jnp.finfo(rows.dtype).eps) * squares[-1]
    sound = squares > least
    inverse = jnp.where(sound, 1.0 / jnp.where(sound, squares, 1.0), 0.0)
    return scale * (u @ (inverse * (u.T @ (rows @ target))))


def _steepness(S: Float[Array, "r p"], G: Float[Array, "r p"]) -> Scalar:
    """The largest change of the gradient for its way, of any difference."""
    ways, changes = jnp.sum(S**2, axis=1), jnp.sum(G**2, axis=1)
    there = ways > 0
    return jnp.sqrt(jnp.max(jnp.where(there, changes / jnp.where(there, ways, 1.0), 0.0)))


def _pushed(new: Array, old: Array) -> Array:
    return jnp.concatenate([new[None], old[:-1]])
