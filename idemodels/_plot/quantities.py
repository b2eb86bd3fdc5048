"""Which curves a path is shown by: a name for the axis, and how to read it off."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from .pair import Pair, Side

# Up to so many components are drawn one by one.
_FEW = 3


class Quantity(NamedTuple):
    """A curve, shape `(T,)`; `read` returns `None` for a path that has no such thing.

    `log` is for what is never negative and may fall by decades.
    """

    name: str
    read: Callable[[Side], Any]
    log: bool = False


def parameters(pairs: list[Pair]) -> list[Quantity]:
    """All components of theta if they are few; else the way made, and those that go furthest."""
    names, rows = components(pairs[0].discrete.path.theta)
    if len(names) <= _FEW:
        return [Quantity(name, _component(i)) for i, name in enumerate(names)]
    way = np.nanmax(np.abs(rows - rows[:1]), axis=0)
    furthest = np.argsort(-way, kind="stable")[: _FEW - 1]
    chosen = [Quantity(names[i], _component(int(i))) for i in furthest]
    return [Quantity(r"$\|\theta - \theta_0\|_2$", _way), *chosen]


def moments(pairs: list[Pair]) -> list[Quantity]:
    """Each moment that one of the paths has; its Euclidean norm where theta is not a scalar."""
    names = dict.fromkeys(name for pair in pairs for name in pair.equation.path.moments)
    return [Quantity(_symbol(name, pairs), _moment(name)) for name in names]


def gradient(pairs: list[Pair]) -> list[Quantity]:
    """The gradient along the path; its Euclidean norm where theta is not a scalar."""
    return [Quantity(_symbol("g", pairs), lambda side: _size(side.gradient))]


def loss() -> list[Quantity]:
    return [Quantity("loss $L$", lambda side: side.path.loss, log=True)]


def distance() -> Quantity:
    """Between both paths: not read off one of them, but `Pair.error`."""
    return Quantity(r"$\max_i |\theta_i - \theta_{k,i}|$", lambda side: side.path.theta)


def components(tree: Any) -> tuple[list[str], np.ndarray]:
    """The names of all components, and their paths, shape `(T, n)`."""
    names, columns = [], []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        where = jax.tree_util.keystr(path)
        for index in np.ndindex(leaf.shape[1:]):
            inner = "[" + ", ".join(map(str, index)) + "]" if index else ""
            names.append(rf"$\theta$ {where}{inner}".strip())
        columns.append(leaf.reshape(leaf.shape[0], -1))
    return names, np.concatenate(columns, axis=1)


def _component(i: int) -> Callable[[Side], np.ndarray]:
    return lambda side: components(side.path.theta)[1][:, i]


def _way(side: Side) -> np.ndarray:
    rows = components(side.path.theta)[1]
    return np.linalg.norm(rows - rows[:1], axis=1)


def _moment(name: str) -> Callable[[Side], np.ndarray | None]:
    def read(side: Side) -> np.ndarray | None:
        return _size(side.path.moments[name]) if name in side.path.moments else None

    return read


def _symbol(name: str, pairs: list[Pair]) -> str:
    scalar = components(pairs[0].discrete.path.theta)[1].shape[1] == 1
    return f"${name}$" if scalar else rf"$\|{name}\|_2$"


def _size(tree: Any) -> np.ndarray:
    """What is one number as it is; else its Euclidean norm."""
    rows = components(tree)[1]
    return rows[:, 0] if rows.shape[1] == 1 else np.linalg.norm(rows, axis=1)
