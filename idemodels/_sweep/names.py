"""Names that a store can have for variables and dimensions, each its own."""

from collections.abc import Collection, Iterable
from typing import Any

import jax

from .program import digest

# Bytes of a name: a file system takes 255, and a dimension's name is longer than its variable's.
_LONGEST = 200


def variables(outputs: dict[str, Any]) -> dict[str, Any]:
    """The leaves of outputs by the names of their variables, `output.key.index`."""
    found = {}
    for output, tree in outputs.items():
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        names = distinct(".".join([output, *map(_word, path)]) for path, _ in leaves)
        found |= dict(zip(names, (x for _, x in leaves), strict=True))
    return found


def distinct(names: Iterable[str], taken: Collection[str] = ()) -> list[str]:
    """Names that a store can have, none of them twice; `~2` tells the second of a name."""
    wanted = [_legal(name) for name in names]
    found: dict[str, None] = {}
    for name in wanted:
        new, count = name, 1
        while new in taken or new in found or (count > 1 and new in wanted):
            count += 1
            new = f"{name}~{count}"
        found[new] = None
    return list(found)


def can_begin(name: Any) -> bool:
    """Whether a store can have variables of that name: some mean something else there."""
    if not isinstance(name, str) or not name.strip():
        return False
    return not _legal(name).startswith((".", "__")) and name != "zarr.json"


def _word(key: Any) -> str:
    """A step into a pytree: an attribute, a key or an index."""
    found = getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))
    return ".".join(map(str, found)) if isinstance(found, tuple) else str(found) or "_"


def _legal(name: str) -> str:
    """The name with `_` for what is no part of a file's name; a long one is cut."""
    name = "".join(c if c.isprintable() and c not in "/\\" else "_" for c in name)
    if len(name.encode()) <= _LONGEST:
        return name
    cut = name.encode()[: _LONGEST - 20].decode(errors="ignore")
    return f"{cut}~{digest([name])}"
