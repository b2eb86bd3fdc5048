"""How programs are traced and compiled."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
from jax.extend.core import get_opaque_trace_state

# XLA's older code generator compiles a solve in half the time. All of it in one module keeps a
# third of the memory maps, of which Linux gives a process 65,530.
# What it makes of large arrays is slower by a third.
_LARGE = 10_000
_QUICK: dict[str, Any] = {
    "compiler_options": {
        "xla_cpu_use_fusion_emitters": False,
        "xla_cpu_parallel_codegen_split_count": 1,
    }
}


def program(function: Callable[..., Any]) -> Callable[..., Any]:
    """`eqx.filter_jit`; on a CPU quick to compile, where arrays are small.

    A program inside somebody's `jit` or `vmap` is compiled as a part of that one. Inside `grad` it
    is too, unless it takes an argument `adjoint` that is None: such a program is differentiated in
    reverse mode alone, and both of its parts are quick to compile.
    """
    usual = eqx.filter_jit(function)
    quick = eqx.filter_jit(function, **_QUICK)
    parameters = list(inspect.signature(function).parameters)
    reverse = parameters.index("adjoint") if "adjoint" in parameters else None

    @functools.wraps(function)
    def call(*args, **kwargs):
        small = all(getattr(x, "size", 1) <= _LARGE for x in jax.tree.leaves((args, kwargs)))
        if not small or not _can_be_quick():
            return usual(*args, **kwargs)
        if outermost():
            return quick(*args, **kwargs)
        if reverse is None or args[reverse] is not None or not _is_being_differentiated(args):
            return usual(*args, **kwargs)
        try:
            moving, held = eqx.partition(args, eqx.is_inexact_array)
            return _in_two_parts(moving, function, held)
        except jax.errors.UnexpectedTracerError:  # an objective knows of a tracer of its own
            return usual(*args)

    return call


def _is_being_differentiated(args: Any) -> bool:
    """Whether `grad` is all that there is around a call with these arguments."""

    def value(x):
        while isinstance(x, jax.core.Tracer) and hasattr(x, "primal"):
            x = x.primal
        return x

    leaves = jax.tree.leaves(args)
    return not any(isinstance(value(x), jax.core.Tracer) for x in leaves)


@eqx.filter_custom_vjp
def _in_two_parts(moving: Any, function: Any, held: Any) -> Any:
    """`function`, whose derivative is not that of a program, but two programs of its own."""
    return function(*eqx.combine(moving, held))


@_in_two_parts.def_fwd
def _in_two_parts_fwd(perturbed: Any, moving: Any, function: Any, held: Any) -> Any:
    differentiated, constant = eqx.partition(moving, perturbed)
    made, pull = _forwards(differentiated, function, (constant, held))
    return made, (pull, eqx.filter(made, eqx.is_inexact_array))


@_in_two_parts.def_bwd
def _in_two_parts_bwd(
    kept: Any, cotangents: Any, perturbed: Any, moving: Any, function: Any, held: Any
) -> Any:
    del perturbed, moving, function, held
    pull, made = kept
    return _backwards(pull, made, cotangents)


@functools.partial(eqx.filter_jit, **_QUICK)
def _forwards(differentiated: Any, function: Any, others: Any) -> Any:
    def outputs(moving):
        made = function(*eqx.combine(moving, *others))
        return eqx.partition(made, eqx.is_inexact_array)

    moving, pull, others = jax.vjp(outputs, differentiated, has_aux=True)
    return eqx.combine(moving, others), pull


@functools.partial(eqx.filter_jit, **_QUICK)
def _backwards(pull: Any, made: Any, cotangents: Any) -> Any:
    none = lambda x: x is None
    zeros = lambda x, c: jnp.zeros_like(x) if c is None and x is not None else c
    return pull(jax.tree.map(zeros, made, cotangents, is_leaf=none))[0]


def traced_once(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method whose Python runs once for arguments of the same shapes.

    diffrax traces a step three times on the way to its loop.
    """
    once = eqx.filter_jit(method)

    @functools.wraps(method)
    def call(*args, **kwargs):
        return once(*[jnp.asarray(x) if isinstance(x, bool) else x for x in args], **kwargs)

    return call


def outermost() -> bool:
    """Whether no `jit`, `grad` or `vmap` is around the call."""
    here = get_opaque_trace_state()
    with jax.core.eval_context():
        return here == get_opaque_trace_state()


@functools.cache
def _can_be_quick() -> bool:
    """Whether the backend is a CPU, and its compiler has the options."""
    if jax.default_backend() != "cpu":
        return False
    try:
        with jax.core.eval_context():
            jax.jit(lambda: 0, **_QUICK)()
    except jax.errors.JaxRuntimeError:  # another release of XLA
        return False
    return True
