"""Which settings a sweep runs: a grid of axes, or points."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from .._checks import check_count, check_option

_SCALES = ("linear", "log")
_SAMPLERS = ("random", "sobol")


@dataclass(frozen=True)
class Axis:
    """The values of one hyperparameter, and how they are shown; made by [`idemodels.axis`][]."""

    values: np.ndarray
    label: str | None = None
    scale: str = "linear"


def axis(values: Any, label: str | None = None, scale: str = "linear") -> Axis:
    """The values that a sweep gives to a hyperparameter, in double precision on the host.

    **Arguments:**

    - `values`: shape `(n,)`, finite, each once: what the constructor takes, b2 and not 1 - b2.
    - `label`: what figures call the axis: `"1-b2"` shows one minus the values of b2.
    - `scale`: of figures, and of samples between two values: `"linear"` or `"log"`.

    **Raises:** `ValueError` if an argument is not as above.
    """
    check_option(scale, "scale", _SCALES)
    return Axis(_as_values(values, "values"), label, scale)


@dataclass(frozen=True)
class Points:
    """Settings that make no grid; made by [`idemodels.points`][]."""

    axes: dict[str, Axis | Any]
    size: int


def points(
    over: Mapping[str, Any], n: int | None = None, *, sampler: str = "sobol", seed: int = 0
) -> Points:
    """Settings that make no grid: given one by one, or sampled from a box.

    **Arguments:**

    - `over`: dict from names, as for [`idemodels.sweep`][]. Without `n`, to the value at each
        point, all of one length. With `n`, to the two ends of a range: a pair, or
        [`idemodels.axis`][] of them, whose `scale` and `label` say in what the samples are
        spread: `"log"` and `"1-b2"` in the logarithm of 1 - b2.
    - `n`: how many to sample.
    - `sampler`: `"sobol"`, scrambled, best with a power of 2; or `"random"`.
    - `seed`: of either.

    **Raises:** `ValueError` if an argument is not as above, or two points are the same.
    """
    check_option(sampler, "sampler", _SAMPLERS)
    if not isinstance(over, Mapping) or not over:
        raise ValueError(f"Argument `over` must be a dict that is not empty, but is {over!r}.")
    if n is None:
        axes = {name: _as_axis(name, x, distinct=False) for name, x in over.items()}
        sizes = {name: length_of(x) for name, x in axes.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"Argument `over` must have values of one length, but has {sizes}.")
        size = next(iter(sizes.values()))
    else:
        check_count(n, "n")
        size, unit = int(n), _samples(len(over), int(n), sampler, seed)
        axes = {name: _spread(name, x, unit[:, i]) for i, (name, x) in enumerate(over.items())}
    numbers = [x.values for x in axes.values() if isinstance(x, Axis)]
    if len(numbers) == len(axes):
        _, first, counts = np.unique(
            np.stack(numbers, axis=1), axis=0, return_index=True, return_counts=True
        )
        if np.any(counts > 1):
            again = {name: float(x.values[first[counts > 1][0]]) for name, x in axes.items()}
            raise ValueError(f"Argument `over` must have each point once, but has {again} again.")
    return Points(axes, size)


@dataclass(frozen=True)
class Design:
    """Lanes in the order of their index, the last dimension fastest.

    - `axes`: by name: an `Axis`, or a pytree of arrays with a leading axis.
    - `along`: by name, the dimension that it varies along.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    axes: dict[str, Any]
    along: dict[str, str]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    def rows(self, lanes: np.ndarray) -> dict[str, np.ndarray]:
        """By dimension, where each of `lanes` lies on it."""
        return dict(zip(self.dims, np.unravel_index(lanes, self.shape), strict=True))


def design_of(over: Any) -> Design:
    """The lanes of a sweep.

    **Raises:** `ValueError` if `over` is no dict of axes and no `Points`.
    """
    if isinstance(over, Points):
        along = dict.fromkeys(over.axes, "point")
        return Design(("point",), (over.size,), dict(over.axes), along)
    if not isinstance(over, Mapping) or not over:
        raise ValueError(
            "Argument `over` must be a dict from names to values, or `idemodels.points(...)`, but "
            f"is {over!r}."
        )
    axes = {str(name): _as_axis(str(name), x) for name, x in over.items()}
    shape = tuple(length_of(x) for x in axes.values())
    return Design(tuple(axes), shape, axes, {name: name for name in axes})


def length_of(x: Any) -> int:
    """How many values an axis has."""
    return len(x.values) if isinstance(x, Axis) else jax.tree.leaves(x)[0].shape[0]


def _as_axis(name: str, x: Any, *, distinct: bool = True) -> Any:
    if isinstance(x, Axis):
        return x
    whole = name in ("theta0", "args") or "." in name
    if whole and not (isinstance(x, list | tuple) or np.ndim(x) == 1):
        return _as_trees(name, x)
    return Axis(_as_values(x, name, distinct=distinct))


def _as_trees(name: str, tree: Any) -> Any:
    leaves = [np.shape(x) for x in jax.tree.leaves(tree)]
    if not leaves or any(not shape or shape[0] != leaves[0][0] for shape in leaves):
        raise ValueError(
            f"Axis {name!r} must be a pytree whose arrays have one leading axis, a row for each "
            f"value, but has arrays of the shapes {leaves}."
        )
    if leaves[0][0] == 0:
        raise ValueError(f"Axis {name!r} must have a value, but is empty.")
    return jax.tree.map(np.asarray, tree)


def _as_values(x: Any, name: str, *, distinct: bool = True) -> np.ndarray:
    try:
        values = np.asarray(x, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"Axis {name!r} must be a list of numbers, but is {x!r}.") from None
    if values.ndim != 1:
        hint = " For one value give it to the model." if values.ndim == 0 else ""
        raise ValueError(f"Axis {name!r} must have shape (n,), but has shape {values.shape}.{hint}")
    if values.size == 0:
        raise ValueError(f"Axis {name!r} must have a value, but is empty.")
    if not np.all(np.isfinite(values)):
        raise ValueError(
            f"Axis {name!r} must be finite, but has {values[~np.isfinite(values)][0]}."
        )
    if distinct and np.unique(values).size < values.size:
        found, counts = np.unique(values, return_counts=True)
        raise ValueError(
            f"Axis {name!r} must have each value once, but has {found[counts > 1][0]} "
            f"{counts.max()} times."
        )
    return values


def _samples(dimensions: int, n: int, sampler: str, seed: int) -> np.ndarray:
    """In the unit cube, shape `(n, dimensions)`."""
    if sampler == "random":
        return np.random.default_rng(seed).random((n, dimensions))
    from scipy.stats import qmc

    return qmc.Sobol(dimensions, rng=seed).random_base2((n - 1).bit_length())[:n]


def _spread(name: str, x: Any, unit: np.ndarray) -> Axis:
    """Samples between the two values of `x`."""
    ends = _as_axis(name, x)
    if not isinstance(ends, Axis) or ends.values.size != 2:
        raise ValueError(f"Axis {name!r} must have two values to sample between, but is {x!r}.")
    low, high = complement(name, ends.label, ends.values)
    if ends.scale == "log":
        if min(low, high) <= 0:
            raise ValueError(
                f"Axis {name!r} must be positive for scale='log', but goes from {low} to {high}."
            )
        shown = np.exp(np.log(low) + unit * (np.log(high) - np.log(low)))
    else:
        shown = low + unit * (high - low)
    return Axis(complement(name, ends.label, shown), ends.label, ends.scale)


def complement(name: str, label: str | None, values: np.ndarray) -> np.ndarray:
    """`values` as the label shows them, or back: one minus them for `"1-b2"`."""
    minus = label is not None and label.replace(" ", "") == f"1-{name}"
    return 1.0 - values if minus else values
