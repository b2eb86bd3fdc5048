"""The referee: an optax transformation, step by step. It shares no code with the methods."""

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, PyTree

from ._checks import all_finite, is_concrete
from ._equation import cast, dtype_of
from ._flow import InterpolatingFlow
from ._model import AbstractModel, breakpoints_of
from ._optax_state import moments_from_optax, updated
from ._parameters import as_parameters, check_model, check_objective
from ._programs import program
from ._results import RESULTS, Trajectory, integrated_rate, losses
from ._types import Objective, Theta


def run_discrete(
    model: AbstractModel | InterpolatingFlow | optax.GradientTransformation,
    objective: Objective,
    theta0: Theta,
    steps: int,
    *,
    ts: Any = None,
    args: PyTree[Any] = None,
    save: Callable[..., PyTree[Any]] | None = None,
) -> Trajectory:
    """Runs the discrete algorithm: a `lax.scan` of optax.

    **Arguments:**

    - `model`: a model or a flow, whose `.optax()` is run, or any `optax.GradientTransformation`.
        One with extra arguments is given `value`, `grad`, `value_fn` (line searches), `obj_fn`
        (`optax.contrib.sophia`) and `grad_fn` (`optax.contrib.sam`), all of the objective.
    - `objective`, `theta0`, `args`: as for [`idemodels.solve`][], but that half precision stays
        what it is: parameters move in the widest of their own types.
    - `steps`: how many steps to make, not negative.
    - `ts`: which iterates to keep: integers from 0 to `steps`, increasing, known (not traced);
        all if `None`.
    - `save`: as for [`idemodels.solve`][].

    **Returns:** an [`idemodels.Trajectory`][]; iterate k stands at s = k, after k updates. Its
    `moments` are those that optax's state has by the names mu, nu, accumulator or sum_of_squares,
    and those of a `MemoryModel` by their own. `stats["num_gradients"]` is -1 where an optimizer
    evaluates the objective itself, as a line search does.
    `times` is `None` for a flow or a transformation, which does not tell its learning rate.

    **Raises:** `ValueError` for an argument that is not as above.
    """
    kinds = (AbstractModel, InterpolatingFlow, optax.GradientTransformation)
    wanted = "a model such as `idemodels.Adam(0.1)`, or an optax transformation"
    check_model(model, kinds, wanted)  # pyright: ignore[reportArgumentType]
    theta, rest = as_parameters(theta0, half=True)
    check_objective(objective, eqx.combine(theta, rest), args)
    marks = marks_of(steps, ts)
    if isinstance(model, AbstractModel | InterpolatingFlow):
        model = _hyperparameters(model, dtype_of(theta))
    return _run(model, objective, theta, rest, marks, args, save)


def _hyperparameters(model: Any, dtype: Any) -> Any:
    """A model for parameters of `dtype`.

    In half precision b2 = 0.999 is 1, and eps = 1e-8 may be 0. There known hyperparameters are what
    Python's numbers are to optax: in single precision, without a say in what type the result has.
    """

    def leaf(x):
        if eqx.is_inexact_array(x) and x.ndim == 0 and is_concrete(x):
            return jnp.asarray(float(x))
        return cast(x, dtype)

    return cast(model, dtype) if dtype == _counted_in(dtype) else jax.tree.map(leaf, model)


def _counted_in(dtype: Any) -> Any:
    """The type of the steps s beside parameters of `dtype`: 257 is no number of bfloat16."""
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def _run(model, objective, theta, rest, marks, args, save) -> Trajectory:
    from_start = bool(marks[0] == 0)
    gaps = np.diff(marks, prepend=0)[int(from_start) :]
    longest = int(gaps.max(initial=0))
    plan = _Plan(jnp.asarray(gaps), longest, bool(np.all(gaps == longest)), from_start)
    given = () if args is None else (args,)
    kept, moments, loss, bad, one_each = _scan(model, objective, theta, rest, plan, given, save)
    ts = jnp.asarray(marks, _counted_in(dtype_of(theta)))
    if save is None:
        kept = eqx.combine(kept, rest)
    times = None
    if isinstance(model, AbstractModel):
        edges = breakpoints_of(model, ts) if model.scheduled else None
        times = integrated_rate(model.alpha, ts, edges)
    result = RESULTS.where(bad, RESULTS.nonfinite_gradient, RESULTS.successful)
    made = jnp.asarray(marks[-1])
    stats = {"num_steps": made, "num_gradients": made if one_each else jnp.full_like(made, -1)}
    ends = result, stats, None, None
    return Trajectory(ts, times, kept, loss, moments, *ends, source="discrete")


class _Plan(eqx.Module):
    """The steps between the iterates that are kept; `longest` of them at most."""

    gaps: Int[Array, " segments"]
    longest: int
    uniform: bool
    from_start: bool


@program
def _scan(model, objective, theta0, rest, plan, given, save):
    """The kept iterates, their moments and losses, and whether the last is not finite.

    And whether each step took one gradient.
    """
    own = model if isinstance(model, AbstractModel) else None
    twin = isinstance(model, AbstractModel | InterpolatingFlow)
    tx = model.optax() if twin else model
    loss_of = lambda theta: objective(eqx.combine(theta, rest), *given)
    asked: list[str] = []
    step = _step_of(tx, loss_of, asked)

    def segment(carry, gap):
        # segments of unequal length are one scan all the same, so that reverse mode works
        def maybe_step(carry, i):
            if plan.uniform:
                return step(carry), None
            return jax.lax.cond(i < gap, step, lambda carry: carry, carry), None

        made, inner = carry
        inner, _ = jax.lax.scan(maybe_step, inner, jnp.arange(plan.longest))
        return (made + gap, inner), keep(made + gap, *inner)

    def keep(made, theta, opt_state):
        moments = moments_from_optax(opt_state, own)
        if save is None:
            return theta, moments, None
        s = made.astype(_counted_in(dtype_of(theta)))
        saved = save(s, eqx.combine(theta, rest), moments)
        return jax.tree.map(jnp.asarray, saved), {}, loss_of(theta)

    start = theta0, tx.init(theta0)
    nothing = jnp.zeros((), plan.gaps.dtype)
    (_, (theta, _)), rows = jax.lax.scan(segment, (nothing, start), plan.gaps)
    if plan.from_start:
        stack = lambda first, others: jnp.concatenate([first[None], others])
        rows = jax.tree.map(stack, keep(nothing, *start), rows)
    kept, moments, loss = rows
    loss = losses(loss_of, kept) if loss is None else loss
    return kept, moments, loss, ~all_finite(theta), not asked


def _step_of(
    tx: optax.GradientTransformation, loss_of: Callable[[Any], Any], asked: list[str] | None = None
) -> Callable[..., Any]:
    """One step of the algorithm, of parameters and optimizer state.

    To `asked` is added, while a step is traced, what of the loss the algorithm evaluates itself.
    """
    extra = _Extra(loss_of, [] if asked is None else asked)

    def update(g, theta, opt_state, value):
        updates, opt_state = tx.update(g, opt_state, theta, **extra.of(tx, g, value))
        return optax.apply_updates(theta, updates), opt_state

    def step(carry):
        value, g = jax.value_and_grad(loss_of)(carry[0])
        call = lambda g, theta, opt_state: update(g, theta, opt_state, value)
        # optax mixes its integer counts with floats, also where the user wants no promotion
        with jax.numpy_dtype_promotion("standard"):
            return updated(eqx.filter_closure_convert(call, g, *carry), g, *carry)

    return step


class _Extra(eqx.Module):
    """What optax documents that an update may ask for beside gradient, state and parameters."""

    loss_of: Callable[[Any], Any]
    asked: list[str]

    def of(self, tx: optax.GradientTransformation, g: PyTree[Array], value: Any) -> dict[str, Any]:
        """The keyword arguments that the update of `tx` takes."""
        functions = {
            "value_fn": self.value_fn,  # line searches
            "obj_fn": self.obj_fn,  # Hutchinson's estimator, of `optax.contrib.sophia`
            "grad_fn": self.grad_fn,  # `optax.contrib.sam`
        }
        given = {"value": value, "grad": g, **functions}
        takes = inspect.signature(tx.update).parameters
        if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values()):
            return given
        return {name: x for name, x in given.items() if name in takes}

    def value_fn(self, params: PyTree[Array], obj_fn: Any = None, grad_fn: Any = None) -> Any:
        """The loss. A line search hands on what else it was given, and refuses what it cannot."""
        del obj_fn, grad_fn
        self.asked.append("value_fn")
        return self.loss_of(params)

    def obj_fn(self, params: PyTree[Array]) -> Any:
        """The loss."""
        self.asked.append("obj_fn")
        return self.loss_of(params)

    def grad_fn(self, params: PyTree[Array], step: Any = None) -> PyTree[Array]:
        """The gradient, the same at each of the steps that are made inside of a step."""
        del step
        self.asked.append("grad_fn")
        return jax.grad(self.loss_of)(params)


def iterates(
    model: AbstractModel | InterpolatingFlow,
    loss_of: Callable[[Any], Any],
    theta0: PyTree[Array],
    gaps: Array,
) -> PyTree[Array]:
    """`theta0`, and theta after so many steps more each time; leaves with a leading axis.

    `gaps`, integers of shape `(n,)`, may be traced, so that lanes of unequal length are one
    program; no reverse mode is taken through it.
    """
    tx = model.optax()
    step = _step_of(tx, loss_of)

    def segment(carry, gap):
        carry = jax.lax.fori_loop(0, gap, lambda _, carry: step(carry), carry)
        return carry, carry[0]

    _, rows = jax.lax.scan(segment, (theta0, tx.init(theta0)), gaps)
    return jax.tree.map(lambda x, others: jnp.concatenate([x[None], others]), theta0, rows)


def marks_of(steps: Any, ts: Any, name: str = "ts") -> np.ndarray:
    """The iterates to keep, checked; all if `ts`, the argument `name`, is `None`."""
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 0:
        raise ValueError(f"Argument `steps` must be an integer, 0 or more, but is {steps!r}.")
    if ts is None:
        return np.arange(steps + 1)
    if not is_concrete(ts):
        raise ValueError(f"Argument `{name}` must be known, but is traced. Close over it.")
    marks = np.asarray(ts)
    if marks.ndim != 1 or marks.size == 0:
        found = f"has shape {marks.shape}"
    elif np.any(marks != np.round(marks)):
        found = f"has {marks[marks != np.round(marks)][0]}"
    elif np.any(np.diff(marks) <= 0):
        found = "does not increase"
    elif marks[0] < 0 or marks[-1] > steps:
        found = f"spans {marks[0]} to {marks[-1]}"
    else:
        return marks.astype(int)
    raise ValueError(
        f"Argument `{name}` must be increasing integers from 0 to {steps} (`steps`), but {found}."
    )
