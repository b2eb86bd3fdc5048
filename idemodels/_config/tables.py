"""The tables of a config, and which class each `kind` means."""

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import diffrax as dfx
import pydantic
from pydantic import AfterValidator, PlainValidator

from .._method import FixedPoint, History, Markov
from .._model import AdaGrad, Adam, Nesterov, RMSProp, SecondOrderAdam
from .._objective import (
    DigitsMLP,
    DoubleWell,
    Factorization,
    LinearRegression,
    LogCosh,
    LogisticRegression,
    Quadratic,
    Rosenbrock,
    TiltedDoubleWell,
)
from .._plot import FIGURES
from .._study import STUDIES
from .errors import one_of
from .flows import interpolating_flow

OBJECTIVES = {
    "quadratic": Quadratic,
    "double_well": DoubleWell,
    "tilted_double_well": TiltedDoubleWell,
    "rosenbrock": Rosenbrock,
    "factorization": Factorization,
    "log_cosh": LogCosh,
    "linear_regression": LinearRegression,
    "logistic_regression": LogisticRegression,
    "digits_mlp": DigitsMLP,
}
MODELS = {
    "adam": Adam,
    "rmsprop": RMSProp,
    "adagrad": AdaGrad,
    "second_order_adam": SecondOrderAdam,
    "interpolating_flow": interpolating_flow,
    "nesterov": Nesterov,
}
# In the order in which they are tried where a config names none.
METHODS = {"markov": Markov, "fixed_point": FixedPoint, "history": History}


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def _is_word(x: Any) -> bool:
    return isinstance(x, str)


def _is_array(x: Any) -> bool:
    """A number, or a list of arrays."""
    return bool(x) and all(map(_is_array, x)) if isinstance(x, list) else _is_number(x)


def _array(x: Any) -> Any:
    if not _is_array(x):
        raise ValueError(f"must be a number or an array of numbers, but is {x!r}.")
    return x


def _one_or_more(is_one: Callable[[Any], bool], what: str) -> Any:
    """A validator for one value, or a list that makes a case of each."""

    def check(x: Any) -> Any:
        if isinstance(x, list) and not x:
            raise ValueError(f"must be {what}, or a list of at least one, but is empty: [].")
        if not all(map(is_one, x if isinstance(x, list) else [x])):
            raise ValueError(f"must be {what}, or a list of such, but is {x!r}.")
        return x

    return PlainValidator(check)


def _at_least(least: int) -> AfterValidator:
    def check(x: int) -> int:
        if x < least:
            raise ValueError(f"must be an integer, {least} or more, but is {x}.")
        return x

    return AfterValidator(check)


_Array = Annotated[Any, PlainValidator(_array)]
_Numbers = Annotated[Any, _one_or_more(_is_number, "a number")]
_Words = Annotated[Any, _one_or_more(_is_word, "a text in quotes")]
_Starts = Annotated[Any, _one_or_more(_is_array, "a number or an array of numbers")]
_Count = Annotated[int, _at_least(1)]


def _study(x: Any) -> Any:
    if x not in STUDIES:
        raise ValueError(one_of(x, STUDIES))
    return x


def _figure(x: Any) -> Any:
    if x not in FIGURES:
        raise ValueError(one_of(x, FIGURES))
    return x


class Table(pydantic.BaseModel):
    """A table with known keys only, where 1 is a number and "1" is none."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


class Head(Table):
    """The keys that stand once in a file.

    - `claim`: what the source says or shows, in our words.
    - `redraws`: from the name of a kind of figure in the authors' code to that of ours.
    - `figures`: which of the usual figures are drawn; by default all, or with a study none.
    """

    title: str
    precision: Literal["float64", "float32"] = "float64"
    claim: str = ""
    redraws: dict[str, str] = {}
    study: Annotated[Any, PlainValidator(_study)] = None
    figures: list[Annotated[str, PlainValidator(_figure)]] | None = None
    runs: list[dict[str, Any]] = []


class Run(Table):
    """The keys that describe a run: at the top of a file, or in one of its `[[runs]]`.

    - `method`: by default what the model needs.
    - `unscaled_decay`: whether the discrete run's `weight_decay` is not times the learning rate;
        see `optax` of a model.
    - `shift`: where on its own axis s the equation starts, its memories empty; s = 0 by default.
    - `published`: a number of the source for each case, in their order, to stand beside ours.
    - `also_published`: further ones, by the names that the study has for them.
    - `curve`: the source's theta, a number, at evenly spaced steps from 0 to `steps`.
    - `ends`: steps at which another version of the source ends; marked in the figures.
    """

    steps: _Count
    every: _Count = 1
    objective: dict[str, Any]
    theta0: _Starts = None
    model: dict[str, Any]
    method: dict[str, Any] | None = None
    unscaled_decay: bool = False
    shift: _Numbers = None
    published: _Numbers = None
    also_published: dict[str, _Numbers] = {}
    curve: _Numbers = None
    ends: _Numbers = []


def _table(kind: str, of: Callable[..., Any], numbers: Any) -> type[Table]:
    """The table of a class: a key for each argument of its constructor, or of a function."""
    fields: dict[str, Any] = {"kind": Literal[kind]}
    for name, parameter in inspect.signature(of).parameters.items():
        value = _Words if isinstance(parameter.default, str) else numbers
        needed = parameter.default is parameter.empty
        fields[name] = (value, ... if needed else parameter.default)
    return pydantic.create_model(of.__name__, __base__=Table, **fields)


def solvers() -> list[str]:
    """The names of the diffrax solvers that take an ODE and need no arguments."""
    classes = ((name, x) for name, x in vars(dfx).items() if inspect.isclass(x))
    return [
        name
        for name, x in classes
        if issubclass(x, dfx.AbstractSolver)
        and not name.startswith("Abstract")
        and getattr(x, "term_structure", None) is dfx.AbstractTerm
    ]


def _solver(x: Any) -> Any:
    if x not in solvers():
        raise ValueError(one_of(x, solvers()))
    return x


_Solver = Annotated[Any, PlainValidator(_solver)]


def _method_table(kind: str, of: type) -> type[Table]:
    """The table of a method: a key for each field; a solver by its name, and no event."""
    fields: dict[str, Any] = {"kind": Literal[kind]}
    for name, parameter in inspect.signature(of).parameters.items():
        if name != "event":
            value = _Solver if name == "solver" else parameter.annotation
            fields[name] = (value, parameter.default)
    return pydantic.create_model(of.__name__, __base__=Table, **fields)


def _markov(**arguments: Any) -> Markov:
    """TOML has no null: `"none"` is `None`."""
    name = arguments.pop("solver", None)
    arguments = {key: None if value == "none" else value for key, value in arguments.items()}
    return Markov(None if name is None else getattr(dfx, name)(), **arguments)


# Of each table with a `kind`: what the kinds' keys are, and what they make.
TABLES: Mapping[str, Mapping[str, type[Table]]] = {
    "objective": {kind: _table(kind, of, _Array) for kind, of in OBJECTIVES.items()},
    "model": {kind: _table(kind, of, _Numbers) for kind, of in MODELS.items()},
    "method": {kind: _method_table(kind, of) for kind, of in METHODS.items()},
}
MAKERS: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "objective": OBJECTIVES,
    "model": MODELS,
    "method": METHODS | {"markov": _markov},
}
