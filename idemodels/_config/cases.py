"""One line of a table: everything that a solve and its discrete twin need."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._equation import Equation
from .._flow import InterpolatingFlow
from .._method import AbstractMethod, Markov
from .._method.base import describe
from .._model import AbstractModel
from .._results import State
from .._types import Theta
from .errors import Mistake, Mistakes, one_of, validate
from .tables import MAKERS, METHODS, TABLES, Run


@dataclass(frozen=True)
class Case:
    """One choice of every value.

    - `values`: what it was made from, by the config's keys, defaults included: "objective" and
        "model" (their kinds), the model's arguments, "theta0" and "shift" where the config has
        them.
    - `theta0`: numbers; `None` where the objective's own start is taken.
    - `shift`: where the equation starts: it is at `shift + k` where the discrete run is at k.
    - `published`: the source's number for this case; NaN where it has none.
    - `also_published`: its further numbers, by name.
    - `curve`: its theta at evenly spaced steps, from 0 to `steps`; empty where it has none.
    - `ends`: steps at which another version of the source ends.
    - `unscaled_decay`: of the discrete run, as `optax` of a model has it.
    """

    values: Mapping[str, Any]
    model: AbstractModel | InterpolatingFlow
    objective: Any
    method: AbstractMethod
    theta0: Any
    steps: int
    every: int
    shift: float
    published: float
    also_published: Mapping[str, float]
    curve: tuple[float, ...]
    ends: tuple[float, ...]
    unscaled_decay: bool

    @property
    def marks(self) -> np.ndarray:
        """The optimizer steps at which both paths are kept: integers, shape `(T,)`."""
        marks = np.arange(0, self.steps + 1, self.every)
        return marks if marks[-1] == self.steps else np.append(marks, self.steps)

    def start(self, dtype: str) -> Theta:
        """The parameters at the start, as arrays of `dtype`."""
        if self.theta0 is not None:
            return jnp.asarray(self.theta0, dtype)
        return jax.tree.map(lambda x: jnp.asarray(x, dtype), self.objective.theta0)

    def state0(self, start: Theta) -> State | None:
        """Where the equation starts, if not at s = 0: with empty memories."""
        if not self.shift:
            return None
        y = Equation(self.model, self.objective).init(start)  # pyright: ignore[reportArgumentType]
        return State(self.shift, start, y.memory, y.velocity)


def cases_of(run: Run) -> list[Case]:
    """A case for each combination of values, the last key's values next to each other.

    **Raises:** `Mistakes`.
    """
    tables = _checked_tables(run)
    objective, model = tables["objective"], tables["model"]
    made_objective = make("objective", objective)
    starts = [None] if run.theta0 is None else _listed(run.theta0)
    for start in starts:
        _check_start(made_objective, start)
    cases = []
    for values in combinations(model):
        made = make("model", values)
        method = _method_for(made, tables.get("method"))
        for start, shift in product(starts, _listed(run.shift)):
            values_shown = {"objective": _shown(objective), "model": values["kind"]}
            values_shown |= _with_defaults(MAKERS["model"][values["kind"]], values)
            values_shown |= {} if start is None else {"theta0": start}
            values_shown |= {} if shift is None else {"shift": shift}
            _check_shift(shift, made, method)
            if run.unscaled_decay and isinstance(made, InterpolatingFlow):
                text = "must be left out for a flow, whose discrete run is its own optimizer's."
                raise Mistakes(Mistake(("unscaled_decay",), text))
            of_run = (start, run.steps, run.every, shift or 0.0)
            of_source = (np.nan, {}, _curve(run), tuple(_listed(run.ends)), run.unscaled_decay)
            cases.append(Case(values_shown, made, made_objective, method, *of_run, *of_source))
    return _with_published(cases, run)


def combinations(table: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """The product over the lists of a table."""
    for values in product(*map(_listed, table.values())):
        yield dict(zip(table, values, strict=True))


def make(key: str, values: Mapping[str, Any]) -> Any:
    """The object that the table at `key` stands for.

    **Raises:** `Mistakes`, with the words of the constructor.
    """
    arguments = {name: value for name, value in values.items() if name != "kind"}
    try:
        return MAKERS[key][values["kind"]](**arguments)
    except (ValueError, TypeError, ImportError) as e:
        raise Mistakes(_from_constructor(key, str(e))) from None


def shown(values: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys that tell cases apart, and the hyperparameters that one always wants to know."""
    values = list(values)
    apart = varying(values)
    return [key for key in _keys(values) if key in _ALWAYS or key in apart]


def varying(values: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys that tell cases apart."""
    values = list(values)
    differs = lambda key: len({repr(case[key]) for case in values if key in case}) > 1
    return list(filter(differs, _keys(values)))


def _keys(values: list[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for case in values for key in case))


_ALWAYS = ("learning_rate", "b1", "b2", "decay")


def _checked_tables(run: Run) -> dict[str, dict[str, Any]]:
    tables, wrong = {}, []
    for key in TABLES:
        if getattr(run, key) is None:
            continue
        try:
            tables[key] = _checked(key, getattr(run, key))
        except Mistakes as e:
            wrong += e.found
    if wrong:
        raise Mistakes(*wrong)
    return tables


def _checked(key: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that were given, checked against the table of their kind."""
    if "kind" not in values:
        kinds = ", ".join(repr(kind) for kind in TABLES[key])
        raise Mistakes(Mistake((key, "kind"), f"is missing: one of {kinds}."))
    if values["kind"] not in TABLES[key]:
        raise Mistakes(Mistake((key, "kind"), one_of(values["kind"], TABLES[key])))
    table = validate(TABLES[key][values["kind"]], dict(values), under=key)
    return table.model_dump(exclude_unset=True)


def _from_constructor(key: str, message: str) -> Mistake:
    """ "Argument `b2` must ..." speaks of `model.b2` here."""
    name, found, rest = message.removeprefix("Argument `").partition("` ")
    if message.startswith("Argument `") and found:
        return Mistake((key, name), rest)
    return Mistake((key,), f"cannot be made: {message}")


def _method_for(model: Any, table: Mapping[str, Any] | None) -> AbstractMethod:
    """The method that the config asks for, or else the first that solves the equation.

    **Raises:** `Mistakes` if the one that is asked for does not.
    """
    fitting = [kind for kind in METHODS if METHODS[kind]().solves(model)]
    if table is None:
        return make("method", {"kind": fitting[0]})
    if table["kind"] not in fitting:
        kinds = " or ".join(repr(kind) for kind in fitting)
        text = (
            f"must be one that solves the equation of this model, {describe(model)}: {kinds}; "
            f"but is {table['kind']!r}. Without `method` each model gets what it needs."
        )
        raise Mistakes(Mistake(("method", "kind"), text))
    return make("method", table)


def _check_shift(shift: Any, model: Any, method: AbstractMethod) -> None:
    if shift is None:
        return
    if not 0 <= shift < np.inf:
        raise Mistakes(Mistake(("shift",), f"must be 0 or more, and finite, but is {shift}."))
    if shift and (not isinstance(method, Markov) or isinstance(model, InterpolatingFlow)):
        text = f"must be 0 for this method, which starts at s = 0, but is {shift}."
        raise Mistakes(Mistake(("shift",), text))


def _with_published(cases: list[Case], run: Run) -> list[Case]:
    named: dict[tuple[str, ...], Any] = {
        ("also_published", name): x for name, x in run.also_published.items()
    }
    if run.published is not None:
        named[("published",)] = run.published
    for keys, published in named.items():
        numbers = _listed(published)
        if len(numbers) != len(cases):
            text = f"must have a number for each of the {len(cases)} cases, but has {len(numbers)}."
            raise Mistakes(Mistake(keys, text))
        for i, x in enumerate(map(float, numbers)):
            if len(keys) == 1:
                cases[i] = replace(cases[i], published=x)
            else:
                cases[i] = replace(cases[i], also_published={**cases[i].also_published, keys[1]: x})
    return cases


def _curve(run: Run) -> tuple[float, ...]:
    numbers = [] if run.curve is None else _listed(run.curve)
    if len(numbers) == 1 or (numbers and run.steps % (len(numbers) - 1)):
        text = (
            f"must have a number for each of evenly spaced steps from 0 to `steps`, {run.steps}, "
            f"but has {len(numbers)}."
        )
        raise Mistakes(Mistake(("curve",), text))
    return tuple(map(float, numbers))


def _check_start(objective: Any, start: Any) -> None:
    own = jax.eval_shape(lambda: objective.theta0)
    if start is None:
        return
    if not hasattr(own, "shape"):
        text = f"must be left out: the objective has its own start, but is {start!r}."
        raise Mistakes(Mistake(("theta0",), text))
    shape = np.shape(start)
    try:
        fits = jax.eval_shape(objective, jax.ShapeDtypeStruct(shape, jnp.float32)).shape == ()
    except (TypeError, ValueError, IndexError):
        fits = False
    if not fits:
        text = f"must have shape {own.shape} for this objective, but {start!r} has shape {shape}."
        hint = " A list makes a case of each item: for one vector write [[...]]."
        raise Mistakes(Mistake(("theta0",), text + (hint if own.shape else "")))


def _with_defaults(of: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    arguments = {name: value for name, value in values.items() if name != "kind"}
    bound = inspect.signature(of).bind(**arguments)
    bound.apply_defaults()
    return {name: x for name, x in bound.arguments.items() if x is not None}


def _shown(objective: Mapping[str, Any]) -> str:
    """Such as "tilted_double_well(c=1.5)"."""
    given = ", ".join(f"{key}={value}" for key, value in objective.items() if key != "kind")
    return f"{objective['kind']}({given})" if given else objective["kind"]


def _listed(x: Any) -> list[Any]:
    return x if isinstance(x, list) else [x]
