"""The configs of studies that differentiate through a run: cases, and a table for the study."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .._hyper import KINDS
from .._model import AbstractModel
from .._objective import DigitsMLP
from .._target import Base, Target, target_of
from .cases import Case, cases_of
from .errors import ConfigError, Mistake, Mistakes, unknown, validate
from .find import name_of
from .read import parse
from .tables import Run, Table


class HyperTable(Table):
    """Hyperparameters that descend.

    - `names`: which.
    - `updates`: how many.
    - `rate`: Adam's learning rate for them, in logarithms.
    - `held_out`: the part of the images to tune on, and as much again that nothing sees.
    """

    names: list[str]
    updates: int = 30
    rate: float = 0.1
    held_out: float = 0.25


class HorizonTable(Table):
    """Derivatives against the horizon.

    - `name`: of the hyperparameter, positive.
    - `change`: the part of it by which it is changed, to see what the derivative misses.
    """

    name: str = "learning_rate"
    change: float = 0.01


_TABLES: dict[str, type[Table]] = dict(zip(KINDS, (HyperTable, HorizonTable), strict=True))


class _Head(Table):
    title: str
    precision: Literal["float64", "float32"] = "float64"


@dataclass(frozen=True)
class DerivativeConfig:
    """A study that can be run; `table` is a `HyperTable` or a `HorizonTable`."""

    name: str
    path: Path
    text: bytes
    title: str
    precision: str
    cases: tuple[Case, ...]
    table: Any


def is_derivative(path: Path) -> bool:
    """Whether a file is the config of such a study: it has its table."""
    return any(kind in parse(path)[1] for kind in KINDS)


def read_derivative(path: Path, kind: str) -> DerivativeConfig:
    """Reads the config of the study `kind`.

    **Raises:** `ConfigError`, which names the file and what is wrong in it.
    """
    text, raw = parse(path)
    try:
        if kind not in raw:
            raise Mistakes(Mistake((kind,), f"is missing: the table `[{kind}]` of this study."))
        known = [*_Head.model_fields, *Run.model_fields, kind]
        strange = [Mistake((key,), unknown(key, known)) for key in raw if key not in known]
        if strange:
            raise Mistakes(*strange)
        head = validate(_Head, {key: raw[key] for key in raw if key in _Head.model_fields})
        table = validate(_TABLES[kind], raw[kind], under=kind)
        cases = cases_of(validate(Run, {k: raw[k] for k in raw if k in Run.model_fields}))
        _check(kind, table, cases)
    except Mistakes as e:
        raise ConfigError("\n".join(f"{path}: {found}" for found in e.found)) from None
    told = name_of(path), path, text, head.title, head.precision
    return DerivativeConfig(*told, tuple(cases), table)


def _check(kind: str, table: Any, cases: list[Case]) -> None:
    ranges = {
        "updates": (lambda x: x >= 1, "must be 1 or more"),
        "rate": (lambda x: 0 < x < float("inf"), "must be a positive number"),
        "held_out": (lambda x: 0 < x < 0.5, "must lie in (0, 0.5)"),
        "change": (lambda x: 0 < x < 1, "must lie in (0, 1)"),
    }
    for key, (holds, words) in ranges.items():
        if key in type(table).model_fields and not holds(getattr(table, key)):
            raise Mistakes(Mistake((kind, key), f"{words}, but is {getattr(table, key)!r}."))
    base = Base(cases[0].model, cases[0].objective, None, None)
    for key in ("name", "names"):
        try:
            for name in map(str, np.atleast_1d(getattr(table, key, []))):
                _check_positive(target_of(base, name, key), base, (kind, key), name)
        except ValueError as e:
            words = str(e).removeprefix(f"Argument `{key}` ")
            raise Mistakes(Mistake((kind, key), words)) from None
    if kind == "hyper":
        if not isinstance(cases[0].model, AbstractModel):
            words = "must be a model of the papers: a flow is not tuned so."
            raise Mistakes(Mistake(("model", "kind"), words))
        if len(cases) > 1:
            words = "must have one value each: what descends stands in `hyper.names`."
            raise Mistakes(Mistake(("model",), words))
        if not isinstance(cases[0].objective, DigitsMLP):
            words = "must be 'digits_mlp', whose images can be held out."
            raise Mistakes(Mistake(("objective", "kind"), words))


def _check_positive(target: Target, base: Base, keys: tuple[str, str], name: str) -> None:
    value = target.value(base) if target.part == "model" else None
    if value is None or np.ndim(value) != 0 or not float(value) > 0:
        found = "is none" if value is None else f"is {value}"
        words = f"must have positive hyperparameters of the model, but {name!r} {found}."
        raise Mistakes(Mistake(keys, words))
