"""What a function computes, as a few words that another process finds again."""

import dataclasses
import enum
import functools
import hashlib
import re
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.sharding import AbstractMesh, Mesh, Sharding

# Parameters of an operation that do not say what it computes: names, places, and the rules of
# derivatives, which are operations themselves where a derivative is taken.
_NO_MATTER = {
    "bwd",
    "compiler_options_kvs",
    "ctx_mesh",
    "debug_info",
    "donated_invars",
    "fwd_jaxpr_thunk",
    "inline",
    "jvp_jaxpr_fun",
    "keep_unused",
    "name",
    "out_trees",
}
# Operations that compute nothing.
_TELL = {"debug_callback", "debug_print"}
# The operations whose one inner program stands for them, and where they hold it.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
# How much of a program is shown, and of a digest.
_SHOWN, _DIGITS = 120, 12


def program(f: Callable[..., Any], *given: Any) -> str:
    """The operations of `f` and its constants: a digest, and the first of them to be read.

    Nothing is computed. Arrays of `given` stand for any others of their shapes; whatever else is
    there, or closed over, is part of the program. Equal functions have equal words, whatever they
    are called, wherever they are written, jitted or not.
    """
    as_arrays = lambda *given: jax.tree.map(jnp.asarray, f(*given))
    closed, _, _ = eqx.filter_make_jaxpr(as_arrays)(*given)
    made: dict[str, _Operation] = {}
    inputs, outputs = _ends(closed, made)
    used = [operation.words for operation in _used(made, outputs)]
    shown = ", ".join(used) or " ".join(outputs)
    shown = re.sub(r"\((.*?):.*?\)", r"\1", shown)  # constants without their types
    shown = f"{shown[:_SHOWN]}..." if len(shown) > _SHOWN else shown
    return f"{shown or 'nothing'} (#{digest([*inputs, *outputs])})"


def array_digest(x: Any) -> str:
    """Of the type, the shape and the bytes of an array."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return f"{x.dtype} {array_digest(jax.random.key_data(x))}"
    told = hashlib.sha256(f"{x.dtype}{tuple(x.shape)}".encode())
    told.update(np.asarray(x).tobytes())
    return told.hexdigest()[:_DIGITS]


def digest(lines: Iterable[str]) -> str:
    """A few characters that stand for lines of text."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:_DIGITS]


class _Operation(NamedTuple):
    """Its name beside the constants that it is given, and the names of all that it is given."""

    words: str
    inputs: list[str]


def _ends(closed: ClosedJaxpr, made: dict[str, _Operation]) -> tuple[list[str], list[str]]:
    """The names of a program's inputs and outputs; adds its operations to those `made`."""
    inputs = [f"in{i}:{_type(x.aval)}" for i, x in enumerate(closed.jaxpr.invars)]
    return inputs, _walk(closed.jaxpr, closed.consts, inputs, made)


def _walk(
    jaxpr: Jaxpr, consts: Iterable[Any], given: list[str], made: dict[str, _Operation]
) -> list[str]:
    """The outputs, each named by all that it is computed from, so that nothing else matters."""
    known = dict(zip(jaxpr.constvars, map(_constant, consts), strict=True))
    known |= dict(zip(jaxpr.invars, given, strict=True))
    read = lambda x: _constant(x.val) if isinstance(x, Literal) else known[x]
    for eqn in jaxpr.eqns:
        name, inputs = eqn.primitive.name, [read(x) for x in eqn.invars]
        if name in _TELL:
            continue
        if name in _CALLS:
            inner = eqn.params[_CALLS[name]]
            outputs = _walk(inner.jaxpr, inner.consts, inputs, made)
        else:
            told = {k: _parameter(x) for k, x in eqn.params.items() if k not in _NO_MATTER}
            types = " ".join(_type(x.aval) for x in eqn.outvars)
            own = digest([name, *inputs, str(sorted(told.items())), types])
            outputs = [f"{own}.{i}" for i in range(len(eqn.outvars))]
            constants = [x for x in inputs if x.startswith("(")]
            made[own] = _Operation(" ".join([name, *constants]), inputs)
        known |= dict(zip(eqn.outvars, outputs, strict=True))
    return [read(x) for x in jaxpr.outvars]


def _used(made: dict[str, _Operation], outputs: list[str]) -> list[_Operation]:
    """The operations that outputs are computed from, in the order in which they were made."""
    left, used = list(outputs), set()
    while left:
        own = left.pop().rpartition(".")[0]
        if own in made and own not in used:
            used.add(own)
            left += made[own].inputs
    return [operation for own, operation in made.items() if own in used]


def _constant(x: Any) -> str:
    """In brackets: a number as it is, an array by its bytes."""
    x = x if isinstance(x, jax.Array) else np.asarray(x, getattr(x, "dtype", None))
    number = np.size(x) == 1 and not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    shown = repr(np.asarray(x).item()) if number else f"#{array_digest(x)}"
    return f"({shown}:{x.dtype}{list(x.shape) if x.shape else ''})"


def _type(aval: Any) -> str:
    return f"{aval.dtype}{list(aval.shape)}" if hasattr(aval, "dtype") else type(aval).__name__


def _parameter(x: Any) -> str:
    """A parameter of an operation, without addresses, names of functions and devices."""
    if isinstance(x, ClosedJaxpr | Jaxpr):
        inputs, outputs = _ends(x if isinstance(x, ClosedJaxpr) else ClosedJaxpr(x, []), {})
        return digest([*inputs, *outputs])
    if isinstance(x, Sharding | Mesh | AbstractMesh):
        return ""  # the same numbers on other devices
    if x is None or isinstance(x, bool | int | float | complex | str | bytes):
        return repr(x)
    if isinstance(x, enum.Enum):
        return x.name
    if isinstance(x, np.dtype):
        return str(x)
    if isinstance(x, np.ndarray | np.generic | jax.Array):
        return _constant(x)
    if isinstance(x, Mapping):
        return str(sorted((str(key), _parameter(value)) for key, value in x.items()))
    if isinstance(x, frozenset | set):
        return str(sorted(map(_parameter, x)))
    if isinstance(x, tuple | list):
        return f"{type(x).__name__}{[_parameter(value) for value in x]}"
    if isinstance(x, functools.partial):
        return str([_parameter(part) for part in (x.func, x.args, x.keywords)])
    if isinstance(x, types.FunctionType):
        return _code(x)
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        fields = (field.name for field in dataclasses.fields(x))
        told = {name: _parameter(getattr(x, name)) for name in fields if name not in _NO_MATTER}
        return f"{type(x).__name__}{told}"
    return getattr(x, "__qualname__", type(x).__qualname__)


def _code(f: types.FunctionType, *outer: Any) -> str:
    """A function that JAX calls on the host: its instructions, and what it closes over."""
    told = [_instructions(f.__code__)]
    for cell in f.__closure__ or ():
        value = cell.cell_contents
        if isinstance(value, types.FunctionType):
            told.append("" if value in (f, *outer) else _code(value, f, *outer))
        elif isinstance(value, bool | int | float | complex | str | np.ndarray | jax.Array):
            told.append(_parameter(value))
    return digest(told)


def _instructions(code: types.CodeType) -> str:
    consts = [
        _instructions(x) if isinstance(x, types.CodeType) else _parameter(x) for x in code.co_consts
    ]
    return digest([code.co_code.hex(), str(code.co_names), *consts])
