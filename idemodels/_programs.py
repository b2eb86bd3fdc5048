"""How programs are traced and compiled."""

import functools
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

    A program inside somebody's `jit`, `grad` or `vmap` is compiled as a part of that one.
    """
    usual = eqx.filter_jit(function)
    quick = eqx.filter_jit(function, **_QUICK)

    @functools.wraps(function)
    def call(*args, **kwargs):
        small = all(getattr(x, "size", 1) <= _LARGE for x in jax.tree.leaves((args, kwargs)))
        chosen = quick if small and outermost() and _can_be_quick() else usual
        return chosen(*args, **kwargs)

    return call


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
        jax.jit(lambda: 0, **_QUICK)()
    except jax.errors.JaxRuntimeError:  # another release of XLA
        return False
    return True
