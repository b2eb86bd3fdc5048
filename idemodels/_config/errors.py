"""What is wrong with a config, in lines that a person can act on."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pydantic

from .._checks import near


class ConfigError(ValueError):
    """A config that cannot be run; one line for each thing that is wrong with it."""


class Mistake(NamedTuple):
    """Where it is, as the keys that lead there, and what it is: the words after the key."""

    keys: tuple[Any, ...]
    text: str

    def __str__(self) -> str:
        return f"`{'.'.join(str(key) for key in self.keys)}` {self.text}"


class Mistakes(ValueError):
    """What is wrong with one table."""

    def __init__(self, *found: Mistake):
        super().__init__("\n".join(map(str, found)))
        self.found = found


def validate(table: type[pydantic.BaseModel], values: Any, *, under: str | None = None) -> Any:
    """`values` as a `table`, which is the one at the key `under`, or the file itself.

    **Raises:** `Mistakes`, instead of pydantic's own.
    """
    prefix = () if under is None else (under,)
    try:
        return table.model_validate(values)
    except pydantic.ValidationError as e:
        errors = e.errors()
    words = (Mistake((*prefix, *e["loc"]), explain(e, table.model_fields)) for e in errors)
    raise Mistakes(*words)


def explain(error: Mapping[str, Any], allowed: Iterable[str]) -> str:
    """One of pydantic's errors in words, to stand after the key."""
    found = error["input"]
    match error["type"]:
        case "extra_forbidden":
            return unknown(error["loc"][-1], allowed)
        case "missing":
            return "is missing."
        case "value_error":
            return str(error["ctx"]["error"])
        case "literal_error":
            return one_of(found, error["ctx"]["expected"].replace("'", "").split(" or "))
        case kind:
            return f"{_REQUIREMENTS.get(kind, error['msg'])}, but is {found!r}."


_REQUIREMENTS = {
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "string_type": "must be a text in quotes",
    "list_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
}


def one_of(found: Any, options: Iterable[str]) -> str:
    """That a word is none of `options`, with the nearest one."""
    options = list(options)
    words = ", ".join(repr(option) for option in options)
    return f"must be one of {words}, but is {found!r}.{near(found, options)}"


def unknown(key: str, known: Iterable[str]) -> str:
    """That a key is none of those `known`, with the nearest one."""
    known = list(known)
    words = ", ".join(f"`{name}`" for name in known)
    return f"is unknown here.{near(key, known)} Known: {words}."
