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
_QUICK: dict[str, Any] = {
    "compiler_options": {
        "xla_cpu_use_fusion_emitters": False,
        "xla_cpu_parallel_codegen_split_count": 1,
    }
}
# Its code is slower by a third on large arrays. Derivatives, which take longest to compile, have it
# up to a larger size.
_LARGE, _LARGER = 10_000, 1_000_000
# A program with more versions forgets all of them: a solve has 160 memory maps, its gradient 450.
_KEPT = 32


def program(function: Callable[..., Any]) -> Callable[..., Any]:
    """`eqx.filter_jit`; on a CPU quick to compile, where arrays are small.

    A program inside somebody's `jit` or `vmap` is compiled as a part of that one. So it is inside
    `grad`, unless it takes an argument `adjoint` that is None. Such a program is differentiated in
    reverse mode alone, and both of its parts are quick to compile.
    """
    parts, parameters = _Parts(function), list(inspect.signature(function).parameters)
    adjoint = parameters.index("adjoint") if "adjoint" in parameters else None

    @functools.wraps(function)
    def call(*args, **kwargs):
        size = max((getattr(x, "size", 1) for x in jax.tree.leaves((args, kwargs))), default=0)
        by_reverse = adjoint is not None and len(args) > adjoint and args[adjoint] is None
        if kwargs or size > _LARGER or not by_reverse or not _is_in_grad_alone(args):
            return (parts.whole if size <= _LARGE else parts.whole.usual)(*args, **kwargs)
        moving, held = eqx.partition(args, eqx.is_inexact_array)
        try:
            return _in_two_parts(moving, parts, held)
        except jax.errors.UnexpectedTracerError:  # an objective knows of a tracer of its own
            return parts.whole.usual(*args)

    return call


class _Jitted:
    """`eqx.filter_jit`, quick to compile where nothing is around the call.

    It forgets all of its compiled versions where they are many.
    """

    def __init__(self, function: Callable[..., Any]):
        self._usual = eqx.filter_jit(function)
        self._quick = eqx.filter_jit(function, **_QUICK)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        quickly = outermost() and _can_be_quick()
        return _called(self._quick if quickly else self._usual, args, kwargs)

    def usual(self, *args: Any, **kwargs: Any) -> Any:
        """Compiled as JAX does."""
        return _called(self._usual, args, kwargs)


def _called(jitted: Any, args: Any, kwargs: Any) -> Any:
    made = jitted(*args, **kwargs)
    compiled = getattr(jitted, "_cached", None)  # the tests say that Equinox has it
    if compiled is not None and compiled._cache_size() > _KEPT:
        compiled.clear_cache()
    return made


def _is_in_grad_alone(args: Any) -> bool:
    """Whether some of these arguments are differentiated in reverse mode, and no more than that."""
    found = [x for x in jax.tree.leaves(args) if isinstance(x, jax.core.Tracer)]
    known = lambda x: not isinstance(getattr(x, "primal", x), jax.core.Tracer)
    return bool(found) and all(map(known, found))


class _Parts:
    """A function as a program, and its derivative as two."""

    def __init__(self, function: Callable[..., Any]):
        def forwards(differentiated: Any, others: Any) -> Any:
            """**Returns:** what the function does, and its pullback."""

            def outputs(moving):
                return eqx.partition(function(*eqx.combine(moving, *others)), eqx.is_inexact_array)

            moving, pull, rest = jax.vjp(outputs, differentiated, has_aux=True)
            return eqx.combine(moving, rest), pull

        def backwards(pull: Any, made: Any, cotangents: Any) -> Any:
            none = lambda x: x is None
            zeros = lambda x, c: jnp.zeros_like(x) if c is None and x is not None else c
            return pull(jax.tree.map(zeros, made, cotangents, is_leaf=none))[0]

        self.whole = _Jitted(function)
        self.forwards, self.backwards = _Jitted(forwards), _Jitted(backwards)


@eqx.filter_custom_vjp
def _in_two_parts(moving: Any, parts: _Parts, held: Any) -> Any:
    return parts.whole(*eqx.combine(moving, held))


@_in_two_parts.def_fwd
def _in_two_parts_fwd(perturbed: Any, moving: Any, parts: _Parts, held: Any) -> Any:
    differentiated, constant = eqx.partition(moving, perturbed)
    made, pull = parts.forwards(differentiated, (constant, held))
    return made, (pull, eqx.filter(made, eqx.is_inexact_array))


@_in_two_parts.def_bwd
def _in_two_parts_bwd(
    kept: Any, cotangents: Any, perturbed: Any, moving: Any, parts: _Parts, held: Any
) -> Any:
    del perturbed, moving, held
    return parts.backwards(*kept, cotangents)


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
