"""The results of a sweep as an `xarray.Dataset`."""

from typing import Any

import jax
import numpy as np

from .design import Axis, Design, complement, length_of
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


def variables(outputs: dict[str, Any]) -> dict[str, Any]:
    """The leaves of outputs by the names of their variables."""
    return {
        name + "".join(f".{_word(key)}" for key in path): x
        for name, tree in outputs.items()
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def _word(key: Any) -> str:
    """A step into a pytree: an attribute, a key or an index."""
    return str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key))))


def empty(design: Design, like: dict[str, Any], ts: np.ndarray) -> Any:
    """A data set of which no lane was run.

    - `like`: by variable, a lane's array, its shape and type.
    - `ts`: the steps of the paths.
    """
    import xarray as xr

    data = {}
    for name, x in like.items():
        first = name.split(".")[0]
        own = [f"{name}_{i}" for i in range(len(x.shape))]
        if first in _PATHS and own:
            own[0] = "s"
        fill, dtype = _filling(name, x.dtype)
        values = np.broadcast_to(np.asarray(fill, dtype), (*design.shape, *x.shape))
        about = {"long_name": _LONG.get(first, first)}
        if name == "status":
            about |= {
                "flag_values": np.arange(len(STATUS), dtype=dtype),
                "flag_meanings": " ".join(word.replace(" ", "_") for word in STATUS),
            }
        data[name] = ((*design.dims, *own), values, about)
    coordinates = {}
    for name, axis in design.axes.items():
        dim = design.along[name]
        if isinstance(axis, Axis):
            label = axis.label or name
            about = {"long_name": label, "scale": axis.scale, "units": "1"}
            coordinates[name] = ((dim,), axis.values, about)
            if label != name and "".join(label.split()) == f"1-{name}":
                shown = complement(name, label, axis.values)
                coordinates["".join(label.split())] = ((dim,), shown, {"units": "1"})
        else:
            about = {"long_name": f"index of {name}", "units": "1"}
            coordinates[name] = ((dim,), np.arange(length_of(axis)), about)
    if any("s" in dims for dims, _, _ in data.values()):
        about = {"long_name": "optimizer steps", "units": "1"}
        coordinates["s"] = (("s",), np.asarray(ts, float), about)
    return xr.Dataset(data, coordinates)


def _filling(name: str, dtype: Any) -> tuple[Any, Any]:
    if name == "status":
        return NOT_RUN, np.int8
    if np.issubdtype(dtype, np.floating):
        return np.nan, dtype
    return (False if np.dtype(dtype).kind == "b" else -1), dtype
