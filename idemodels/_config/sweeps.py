"""The config of a sweep: one case, and the axes that are laid over it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .._sweep import Axis, axis, complement
from .cases import Case, cases_of
from .errors import ConfigError, Mistake, Mistakes, one_of, unknown, validate
from .find import name_of
from .read import parse
from .tables import Run, Table


class AxisTable(Table):
    """Either `values`, or `num` of them from `from` to `to`, evenly on the `scale`.

    With `label = "1-b2"` and `scale = "log"` they are even in the logarithm of 1 - b2.
    """

    values: list[int | float] | None = None
    start: float | None = None
    stop: float | None = None
    num: int | None = None
    scale: Literal["linear", "log"] = "linear"
    label: str | None = None


class SweepHead(Table):
    """What a sweep has beside the keys of a run.

    - `batch`: lanes at once.
    - `map`: the two axes of the heat maps; by default the first two.
    - `panels`: the axis that small multiples go along; by default the third, if there is one.
    """

    title: str
    precision: Literal["float64", "float32"] = "float64"
    batch: int = 1024
    over: dict[str, dict[str, Any]]
    map: list[str] | None = None
    panels: str | None = None


@dataclass(frozen=True)
class SweepConfig:
    """A sweep that can be run.

    - `case`: the setting that the axes are laid over.
    - `method`: as the config names it; `None` leaves it to `idemodels.sweep`.
    """

    name: str
    path: Path
    text: bytes
    title: str
    precision: str
    case: Case
    method: Any
    over: dict[str, Axis]
    batch: int
    map: tuple[str, str] | tuple[str]
    panels: str | None


def is_sweep(path: Path) -> bool:
    """Whether a file is the config of a sweep: it has a table `over`."""
    return "over" in parse(path)[1]


def read_sweep(path: Path) -> SweepConfig:
    """Reads the config of a sweep.

    **Raises:** `ConfigError`, which names the file and what is wrong in it.
    """
    text, raw = parse(path)
    try:
        if "over" not in raw:
            words = (
                "is missing: a table `[over.NAME]` for each axis. `idemodels run` is for others."
            )
            raise Mistakes(Mistake(("over",), words))
        known = [*SweepHead.model_fields, *Run.model_fields]
        strange = [Mistake((key,), unknown(key, known)) for key in raw if key not in known]
        if strange:
            raise Mistakes(*strange)
        own = {key: raw[key] for key in raw if key in SweepHead.model_fields}
        head = validate(SweepHead, own)
        cases = cases_of(validate(Run, {key: raw[key] for key in raw if key not in own}))
        if len(cases) > 1:
            words = "and `theta0` must have one value each: what is swept stands in `over`."
            raise Mistakes(Mistake(("model",), words))
        over = {name: _axis(name, table) for name, table in head.over.items()}
        shown = _shown(head, list(over))
    except Mistakes as e:
        raise ConfigError("\n".join(f"{path}: {found}" for found in e.found)) from None
    method = cases[0].method if "method" in raw else None
    told = (name_of(path), path, text, head.title, head.precision)
    return SweepConfig(*told, cases[0], method, over, head.batch, *shown)


def _axis(name: str, table: dict[str, Any]) -> Axis:
    renamed = {{"from": "start", "to": "stop"}.get(key, key): x for key, x in table.items()}
    checked = validate(AxisTable, renamed, under=f"over.{name}")
    ends = (checked.start, checked.stop, checked.num)
    if (checked.values is None) == (None in ends) or (checked.values and ends != (None,) * 3):
        words = "must have `values`, or `from`, `to` and `num`."
        raise Mistakes(Mistake(("over", name), words))
    try:
        values = checked.values
        if values is None:
            ends = axis([checked.start, checked.stop]).values
            low, high = complement(name, checked.label, ends)
            spread = np.geomspace if checked.scale == "log" else np.linspace
            values = complement(name, checked.label, spread(low, high, checked.num))
        return axis(values, checked.label, checked.scale)
    except ValueError as e:
        raise Mistakes(Mistake(("over", name), f"cannot be made: {e}")) from None


def _shown(head: SweepHead, names: list[str]) -> tuple[Any, str | None]:
    chosen = names[:2] if head.map is None else head.map
    for key, found in (("map", chosen), ("panels", [head.panels] if head.panels else [])):
        for name in found:
            if name not in names:
                raise Mistakes(Mistake((key,), one_of(name, names)))
    if not 1 <= len(chosen) <= 2:
        raise Mistakes(Mistake(("map",), f"must name one axis or two, but is {chosen}."))
    rest = [name for name in names if name not in chosen]
    return tuple(chosen), head.panels or (rest[0] if rest else None)
