"""Which settings a sweep runs: a grid of axes, or points."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_count, check_option
from .names import distinct

_SCALES = ("linear", "log")
_SAMPLERS = ("random", "sobol")
# How much of a wrong argument is shown.
_SHOWN = 100


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
        raise ValueError(
            f"Argument `over` must be a dict that is not empty, but is {_brief(over)}."
        )
    if n is None:
        axes = {name: _as_axis(name, x, repeated=True) for name, x in over.items()}
        _check_lengths({name: x for name, x in axes.items() if isinstance(x, Axis)})
    else:
        check_count(n, "n")
        unit = _samples(len(over), int(n), sampler, seed)
        axes = {name: _spread(name, x, unit[:, i]) for i, (name, x) in enumerate(over.items())}
    numbers = [x.values for x in axes.values() if isinstance(x, Axis)]
    if len(numbers) == len(axes):
        _, first, counts = np.unique(
            np.stack(numbers, axis=1), axis=0, return_index=True, return_counts=True
        )
        if np.any(counts > 1):
            again = {name: float(x.values[first[counts > 1][0]]) for name, x in axes.items()}
            raise ValueError(f"Argument `over` must have each point once, but has {again} again.")
    return Points(axes)


@dataclass(frozen=True)
class Design:
    """Lanes in the order of their index, the last dimension fastest.

    - `axes`: by name: an `Axis`, or a pytree of arrays with a leading axis.
    - `names`: by name, that of the axis in the data set.
    - `along`: by name, the dimension that it varies along.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    axes: dict[str, Any]
    names: dict[str, str]
    along: dict[str, str]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    def rows(self, lanes: np.ndarray) -> dict[str, np.ndarray]:
        """By dimension, where each of `lanes` lies on it."""
        return dict(zip(self.dims, np.unravel_index(lanes, self.shape), strict=True))


def axes_of(over: Any) -> dict[str, Any]:
    """The axes of a sweep as they were given.

    **Raises:** `ValueError` if `over` is no dict of axes and no `Points`.
    """
    if isinstance(over, Points):
        return dict(over.axes)
    if not isinstance(over, Mapping) or not over:
        raise ValueError(
            "Argument `over` must be a dict from names to values, or `idemodels.points(...)`, but "
            f"is {_brief(over)}."
        )
    return {str(name): _as_axis(str(name), x) for name, x in over.items()}


def design_of(over: Any, axes: dict[str, Any]) -> Design:
    """The lanes of a sweep over `axes`, whose pytrees are known to have a leading axis.

    **Raises:** `ValueError` if points are not all given as many values.
    """
    names = dict(zip(axes, distinct(axes), strict=True))
    if isinstance(over, Points):
        size = _check_lengths(axes)
        return Design(("point",), (size,), axes, names, dict.fromkeys(axes, "point"))
    shape = tuple(length_of(x) for x in axes.values())
    return Design(tuple(names.values()), shape, axes, names, names)


def length_of(x: Any) -> int:
    """How many values an axis has."""
    return len(x.values) if isinstance(x, Axis) else jax.tree.leaves(x)[0].shape[0]


def _check_lengths(axes: dict[str, Any]) -> int:
    """The one length of all axes; 0 where there is none."""
    sizes = {name: length_of(x) for name, x in axes.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"Argument `over` must have values of one length, but has {sizes}.")
    return next(iter(sizes.values()), 0)


def _as_axis(name: str, x: Any, *, repeated: bool = False) -> Any:
    """An `Axis` where the values are numbers; else what was given, for `as_rows`."""
    if isinstance(x, Axis):
        return x
    whole = name in ("theta0", "args") or "." in name
    return x if whole and not _is_flat(x) else Axis(_as_values(x, name, repeated=repeated))


def _is_flat(x: Any) -> bool:
    """Whether it is a list of numbers."""
    if isinstance(x, list | tuple):
        return all(isinstance(y, int | float | np.number) or _is_number(y) for y in x)
    return eqx.is_array(x) and x.ndim == 1


def _is_number(x: Any) -> bool:
    return eqx.is_array(x) and x.ndim == 0


def as_rows(name: str, tree: Any, old: Any) -> Any:
    """The arrays of an axis in the place of those of `old`, each with a leading axis.

    What is no array in `old` is held fixed, and is `None` here.

    **Raises:** `ValueError` that names the axis, if they are no rows like those of `old`.
    """
    structure = jax.tree.structure(old)
    try:
        parts = structure.flatten_up_to(tree)
    except (ValueError, TypeError):
        raise ValueError(
            f"Axis {name!r} must be a pytree like what it replaces, {_brief(structure)}, whose "
            f"arrays have a leading axis, a row for each value, but is {_brief(tree)}."
        ) from None
    rows, sizes = [], {}
    for (path, like), part in zip(jax.tree_util.tree_leaves_with_path(old), parts, strict=True):
        if not eqx.is_array_like(like):
            rows.append(None)
            continue
        where = f"at {jax.tree_util.keystr(path)} " if path else ""
        row = _as_array(name, where, part)
        if row.shape[1:] != np.shape(like) or row.ndim == 0:
            raise ValueError(
                f"Axis {name!r} must have {where}a row of shape {np.shape(like)} for each value, "
                f"an array of shape (n, ...), but has one of shape {row.shape}."
            )
        rows.append(row)
        sizes[jax.tree_util.keystr(path)] = row.shape[0]
    if len(set(sizes.values())) > 1:
        least, most = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
        raise ValueError(
            f"Axis {name!r} must be a pytree whose arrays have one leading axis, a row for each "
            f"value, but has {sizes[least]} rows at {least} and {sizes[most]} at {most}."
        )
    if 0 in sizes.values() or not sizes:
        raise ValueError(f"Axis {name!r} must have a value, but is empty.")
    return jax.tree.unflatten(structure, rows)


def _as_array(name: str, where: str, x: Any) -> np.ndarray:
    if eqx.is_array(x) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        raise ValueError(
            f"Axis {name!r} must have {where}an array of numbers, but has typed random keys. Pass "
            "`jax.random.key_data(keys)`, and call `jax.random.wrap_key_data` in the objective."
        )
    try:
        rows = np.asarray(x)
    except ValueError:  # rows of unequal length
        rows = np.asarray(None)
    if rows.dtype.kind in "OSU":
        raise ValueError(
            f"Axis {name!r} must have {where}an array of numbers, a row for each value, but has "
            f"{_brief(x)}."
        )
    return rows


def _as_values(x: Any, name: str, *, repeated: bool = False) -> np.ndarray:
    try:
        values = np.asarray(x, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"Axis {name!r} must be a list of numbers, but is {_brief(x)}.") from None
    if values.ndim != 1:
        hint = " For one value give it to the model." if values.ndim == 0 else ""
        raise ValueError(f"Axis {name!r} must have shape (n,), but has shape {values.shape}.{hint}")
    if values.size == 0:
        raise ValueError(f"Axis {name!r} must have a value, but is empty.")
    if not np.all(np.isfinite(values)):
        raise ValueError(
            f"Axis {name!r} must be finite, but has {values[~np.isfinite(values)][0]}."
        )
    if not repeated and np.unique(values).size < values.size:
        found, counts = np.unique(values, return_counts=True)
        raise ValueError(
            f"Axis {name!r} must have each value once, but has {found[counts > 1][0]} "
            f"{counts.max()} times."
        )
    return values


def _brief(x: Any) -> str:
    """The beginning of what a user gave."""
    words = " ".join(repr(x).split())
    return words if len(words) <= _SHOWN else f"{words[:_SHOWN]}..."


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
        raise ValueError(
            f"Axis {name!r} must have two values to sample between, but is {_brief(x)}."
        )
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
