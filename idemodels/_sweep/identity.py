"""What a sweep computes: what its store must have been made with."""

import dataclasses
import enum
import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._equation import cast, dtype_of, fraction_of
from .._flow import InterpolatingFlow
from .._kernel import AbstractMarkovKernel, Memory
from .._model import AbstractModel
from .._parameters import as_parameters
from .._results import Trajectory
from .._solve import Held
from .._target import Base
from .design import Axis, Design
from .program import array_digest, program
from .rounds import Setup

# What computes the numbers.
_NUMERICS = ("jax", "equinox", "diffrax", "optimistix", "lineax", "optax")
# Where functions and classes are known by their names and versions.
_KNOWN = {"builtins", "idemodels", "jax", "jaxtyping", "numpy", *_NUMERICS}
_PLAIN = (type(None), bool, int, float, complex, str, bytes, np.dtype, enum.Enum)


class _Swept:
    """Stands where the values of an axis go."""


def identity_of(
    design: Design, setup: Setup, paths: tuple[Trajectory, Any], values: Any
) -> dict[str, str]:
    """By name, everything that decides what the numbers are, in words; causes before effects.

    Functions are known by what they compute. Nothing is computed, and nothing compiled.

    - `paths`: what the metrics are given, and `values` what a lane is, as shapes and types.
    """
    base = setup.base
    theta, rest = as_parameters(base.theta0)
    fixed = _without_swept(dataclasses.replace(base, theta0=eqx.combine(theta, rest)), setup)
    found = {f"version of {name}": version for name, version in versions().items()}
    found["precision"] = str(setup.ts.dtype)
    found["jax_enable_x64"] = str(jax.config.read("jax_enable_x64"))
    for name in ("theta0", "args", "objective"):
        found |= dict(_leaves(name, getattr(fixed, name)))
    found |= {f"over.{name}": _axis(axis) for name, axis in design.axes.items()}
    found |= dict(_fields("model", fixed.model))
    found |= {
        "steps": str(setup.marks[-1]),
        "discrete": str(setup.discrete),
        "save_ts": str([setup.marks[i] for i in setup.rows]),
        "metrics": str(sorted(name for name, _ in setup.metrics)),
    }
    found |= dict(_fields("method", setup.method))
    functions = [x for x in _objects(setup.method) if callable(x) and hasattr(x, "__qualname__")]
    found["method's functions"] = str([x.__qualname__ for x in functions if _is_known(x)])
    found |= _programs(setup)
    for name, f in setup.metrics:
        found[f"metric {name!r}"] = program(f, *paths)
    if not all(map(_is_known, _objects(setup.method))):
        found["method's program"] = program(setup.whole, values)
    return found


def versions() -> dict[str, str]:
    """Of the packages that compute the numbers."""
    from .. import __version__  # known only when the package is loaded

    found = {name: importlib.metadata.version(name) for name in _NUMERICS}
    return {"idemodels": __version__, **found}


def _without_swept(base: Base, setup: Setup) -> Base:
    """`base` where only what every lane has is left."""
    for target in setup.targets.values():
        base = target.put(base, jax.tree.map(lambda _: _Swept(), target.of(base)))
    return base


def _programs(setup: Setup) -> dict[str, str]:
    """The user's functions, and those of the model, by what they are."""
    base = setup.base
    theta, rest = as_parameters(base.theta0)
    dtype = dtype_of(theta)
    given = () if base.args is None else (base.args,)

    def loss(objective, theta, rest, *args):
        return jax.value_and_grad(lambda theta: Held(objective, rest)(theta, *args))(theta)

    found = {"loss": program(loss, base.objective, theta, rest, *given)}
    model = cast(base.model, dtype)
    if isinstance(model, InterpolatingFlow):
        return found | {"optimizer": program(_discrete, model, theta)}
    s = jax.ShapeDtypeStruct((), dtype)
    if callable(model.learning_rate):
        found["learning_rate"] = program(lambda model, s: model.alpha(s), model, s)
    found["transform"] = program(lambda model, g: model.transform(g), model, theta)
    memories, moments = model.memories(), {}
    for name, memory in memories.items():
        found[f"feature of the memory {name!r}"] = program(Memory.of, memory, theta)
        found[f"kernel of the memory {name!r}"] = program(_kernel, memory.kernel, s)
        moments[name] = eqx.filter_eval_shape(memory.of, theta)
    read = (model, s, theta, theta, moments)
    found["direction"] = program(fraction_of, *read)
    found["initial velocity"] = program(lambda model, x: model.initial_velocity(x), model, theta)
    if setup.discrete:
        found["discrete algorithm"] = program(_discrete, model, theta)
    return found


def _kernel(kernel: Any, lag: Any) -> Any:
    told = kernel.evaluate(lag), kernel.integral(lag)
    return (*told, kernel.state_space()) if isinstance(kernel, AbstractMarkovKernel) else told


def _discrete(model: AbstractModel | InterpolatingFlow, theta: Any) -> Any:
    tx = model.optax()
    with jax.numpy_dtype_promotion("standard"):
        state = tx.init(theta)
        return state, tx.update(theta, state, theta)


def _leaves(name: str, tree: Any) -> Iterator[tuple[str, str]]:
    """Data: the numbers in a pytree by their paths; its functions are in the programs."""
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        if eqx.is_array(x) or isinstance(x, _PLAIN):
            yield name + jax.tree_util.keystr(path), shown(x)


def _fields(name: str, x: Any) -> Iterator[tuple[str, str]]:
    """A model or a method: its class, its numbers and its settings, at any depth."""
    if eqx.is_array(x) or isinstance(x, _PLAIN):
        yield name, shown(x)
    elif isinstance(x, Mapping):
        for key, value in x.items():
            yield from _fields(f"{name}[{key!r}]", value)
    elif isinstance(x, tuple | list):
        for i, value in enumerate(x):
            yield from _fields(f"{name}[{i}]", value)
    elif dataclasses.is_dataclass(x) and not isinstance(x, type):
        yield name, type(x).__name__
        for field in dataclasses.fields(x):
            yield from _fields(f"{name}.{field.name.removeprefix('_')}", getattr(x, field.name))
    elif not callable(x) and not isinstance(x, _Swept):
        yield name, type(x).__qualname__


def _objects(x: Any) -> Iterator[Any]:
    """Functions and instances, at any depth of a method."""
    if isinstance(x, Mapping | tuple | list):
        for value in x.values() if isinstance(x, Mapping) else x:
            yield from _objects(value)
    elif not eqx.is_array(x) and not isinstance(x, _PLAIN):
        yield x
        if dataclasses.is_dataclass(x) and not isinstance(x, type):
            for field in dataclasses.fields(x):
                yield from _objects(getattr(x, field.name))


def _is_known(x: Any) -> bool:
    """Whether the name of a function or a class, and a version, say what it does."""
    named = x if isinstance(x, type) or hasattr(x, "__qualname__") else type(x)
    return str(named.__module__).split(".")[0] in _KNOWN and "<locals>" not in named.__qualname__


def _axis(axis: Any) -> str:
    if isinstance(axis, Axis):
        return f"{shown(axis.values)}, label {axis.label}, scale {axis.scale}"
    return ", ".join(shown(x) for x in jax.tree.leaves(axis))


def shown(x: Any) -> str:
    """A few numbers as they are, more of them by their range and a digest."""
    if not eqx.is_array(x):
        return repr(x)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return array_digest(x)
    host = np.asarray(x)
    if host.size <= 4:
        return str(host.tolist())
    span = ""
    if np.issubdtype(host.dtype, np.number):
        span = f" in {float(np.min(host)):.6g} to {float(np.max(host)):.6g}"
    return f"{host.size} values{span} (#{array_digest(x)})"
