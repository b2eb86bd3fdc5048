"""A TOML file, read and checked."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from .._hyper import KINDS
from .._plot import FIGURES
from .._study import SCALAR, STUDIES, Study
from .cases import Case, cases_of
from .errors import ConfigError, Mistake, Mistakes, unknown, validate
from .find import name_of
from .tables import TABLES, Head, Run


@dataclass(frozen=True)
class Config:
    """A config that can be run.

    - `name`: where its results go, below the folder for results.
    - `text`: the file as it was read.
    - `study`: what is made of all cases together, if anything.
    - `figures`: which of the usual ones are drawn.
    - `claim`, `redraws`: for the report; see [`Head`][].
    """

    name: str
    path: Path
    text: bytes
    title: str
    precision: str
    cases: tuple[Case, ...]
    study: Study | None
    figures: tuple[str, ...]
    claim: str
    redraws: Mapping[str, str]


def read_config(path: Path) -> Config:
    """Reads a config and makes all its cases.

    **Raises:** `ConfigError`, which names the file and every key that is wrong in it.
    """
    text, raw = parse(path)
    if "over" in raw:
        raise ConfigError(f"{path}: is the config of a sweep: `idemodels sweep {path}`.")
    for kind in KINDS:
        if kind in raw:
            raise ConfigError(f"{path}: is of a study: `idemodels study {kind} {path}`.")
    shared = {key: value for key, value in raw.items() if key not in Head.model_fields}
    try:
        _check_keys(raw)
        head = validate(Head, {key: raw[key] for key in raw if key not in shared})
    except Mistakes as e:
        raise _error(path, [str(found) for found in e.found]) from None
    cases: list[Case] = []
    wrong: dict[str, None] = {}  # a mistake that all runs share is told once
    for i, own in enumerate(head.runs or [{}]):
        try:
            cases += cases_of(_run(_laid_over(own, shared)))
        except Mistakes as e:
            wrong |= dict.fromkeys(_in_run(found, own, i) for found in e.found)
    if head.study in SCALAR and not all(map(_is_scalar, cases)):
        wrong["`study` must be left out, or another: this one needs a single parameter."] = None
    if wrong:
        raise _error(path, list(wrong))
    usual = FIGURES if head.study is None else ()
    return Config(
        name_of(path),
        path,
        text,
        head.title,
        head.precision,
        tuple(cases),
        None if head.study is None else STUDIES[head.study],
        tuple(usual if head.figures is None else head.figures),
        head.claim,
        head.redraws,
    )


def read_title(path: Path) -> str:
    """The title of a config that need not be valid otherwise."""
    return str(parse(path)[1].get("title", ""))


def _is_scalar(case: Case) -> bool:
    leaves = jax.tree.leaves(case.start("float32"))
    return len(leaves) == 1 and leaves[0].ndim == 0


def parse(path: Path) -> tuple[bytes, dict[str, Any]]:
    """A TOML file as it is, and what it holds.

    **Raises:** `ConfigError` if it cannot be read, or is no TOML.
    """
    try:
        text = path.read_bytes()
        return text, tomllib.loads(text.decode())
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read: {e.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: is not TOML: {e}.") from None


def _check_keys(raw: Mapping[str, Any]) -> None:
    known = [*Head.model_fields, *Run.model_fields]
    strange = [Mistake((key,), unknown(key, known)) for key in raw if key not in known]
    if strange:
        raise Mistakes(*strange)


def _run(values: Mapping[str, Any]) -> Run:
    run = validate(Run, values)
    if run.every > run.steps:
        text = f"must be at most `steps`, {run.steps}, but is {run.every}."
        raise Mistakes(Mistake(("every",), text))
    return run


def _laid_over(own: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """What a run says itself, over what all share.

    Tables are laid over each other key by key, unless the run's is of another `kind`.
    """
    merged = {**shared, **own}
    for key in TABLES:
        above, below = own.get(key), shared.get(key)
        if isinstance(above, dict) and isinstance(below, dict):
            same = above.get("kind", below.get("kind")) == below.get("kind")
            merged[key] = {**below, **above} if same else above
    return merged


def _in_run(found: Mistake, own: Mapping[str, Any], i: int) -> str:
    """With the run that says so, where it is not all of them."""
    first = found.keys[0]
    if first not in own:
        return str(found)
    table = own[first]
    if len(found.keys) > 1 and isinstance(table, dict) and found.keys[1] not in table:
        return str(found)
    return str(found._replace(keys=(f"runs[{i}]", *found.keys)))


def _error(path: Path, lines: list[str]) -> ConfigError:
    return ConfigError("\n".join(f"{path}: {line}" for line in lines))
