"""The results of a sweep as an `xarray.Dataset`."""

from collections.abc import Collection
from typing import Any

import numpy as np

from .design import Axis, Design, complement, length_of
from .names import distinct, variables
from .rounds import NOT_RUN, STATUS

_LONG = {
    "final_theta": "theta of the equation at the last step",
    "final_loss": "loss of the equation at the last step",
    "discrete_loss": "loss of the discrete run at the last step",
    "max_error": "largest distance of equation and discrete run over the steps compared",
    "final_error": "distance of equation and discrete run at the last step",
    "num_steps": "solver steps",
    "num_gradients": "gradient evaluations of the equation",
    "status": "how the lane ended",
    "theta": "theta of the equation",
    "loss": "loss of the equation",
    "discrete_theta": "theta of the discrete run",
}
_PATHS = ("theta", "loss", "discrete_theta")
# The names that no metric can have.
RESERVED = (*_LONG, "s", "point")


def empty(design: Design, outputs: dict[str, Any], ts: np.ndarray, metrics: Collection[str]) -> Any:
    """A data set of which no lane was run.

    - `outputs`: of a lane, as shapes and types.
    - `ts`: the steps of the paths.
    - `metrics`: which of the outputs are the user's.

    **Raises:** `ValueError` for a metric or an axis that has the name of something else.
    """
    import xarray as xr

    coordinates = _coordinates(design)
    if any(name in outputs for name in _PATHS):
        about = {"long_name": "optimizer steps", "units": "1"}
        coordinates["s"] = (("s",), np.asarray(ts, float), about)
    found = {output: variables({output: tree}) for output, tree in outputs.items()}
    _check_distinct(found, {*coordinates, *design.dims}, metrics)
    data, taken = {}, {*coordinates, *design.dims, *(name for x in found.values() for name in x)}
    for output, leaves in found.items():
        for name, x in leaves.items():
            # a variable by the name of a dimension would be taken for a coordinate
            own = distinct([f"{name}_{i}" for i in range(len(x.shape))], taken)
            taken |= set(own)
            if output in _PATHS:
                own[0] = "s"
            fill, dtype = _filling(name, x.dtype)
            values = np.broadcast_to(np.asarray(fill, dtype), (*design.shape, *x.shape))
            about = {"long_name": _LONG.get(output, output)}
            if name == "status":
                about |= {
                    "flag_values": np.arange(len(STATUS), dtype=dtype),
                    "flag_meanings": " ".join(word.replace(" ", "_") for word in STATUS),
                }
            data[name] = ((*design.dims, *own), values, about)
    return xr.Dataset(data, coordinates)


def _coordinates(design: Design) -> dict[str, Any]:
    """The values of each axis, by the name that a store can have for it."""
    coordinates = {}
    for name, axis in design.axes.items():
        own, dim = design.names[name], design.along[name]
        if isinstance(axis, Axis):
            label = axis.label or name
            about = {"long_name": label, "scale": axis.scale, "units": "1"}
            coordinates[own] = ((dim,), axis.values, about)
            if label != name and "".join(label.split()) == f"1-{name}":
                values = complement(name, label, axis.values)
                coordinates[f"1-{own}"] = ((dim,), values, {"units": "1"})
        else:
            about = {"long_name": f"index of {name}", "units": "1"}
            coordinates[own] = ((dim,), np.arange(length_of(axis)), about)
    return coordinates


def _check_distinct(found: dict[str, Any], axes: set[str], metrics: Collection[str]) -> None:
    """Raises if a metric, or an axis, has the name of something else."""
    taken = {name for output, leaves in found.items() if output not in metrics for name in leaves}
    if taken & axes:
        name = min(taken & axes)
        raise ValueError(
            f"Argument `over` must have axes by other names than the variables of a sweep, but has "
            f"{name!r}. Name it by its path, 'model.{name}'."
        )
    taken |= axes
    for output in metrics:
        names = found[output].keys()
        if not names:
            raise ValueError(f"Argument `metrics` must return arrays, but {output!r} returns none.")
        if taken & names:
            raise ValueError(
                "Argument `metrics` must have names that are not those of axes, variables or other "
                f"metrics, but {output!r} makes {min(taken & names)!r} again."
            )
        taken |= names


def _filling(name: str, dtype: Any) -> tuple[Any, Any]:
    if name == "status":
        return NOT_RUN, np.int8
    if np.issubdtype(dtype, np.inexact):
        return np.nan, dtype
    return (False if np.dtype(dtype).kind == "b" else -1), dtype
