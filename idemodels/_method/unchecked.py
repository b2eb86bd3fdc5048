"""`diffrax.diffeqsolve` as a program that never asks the host."""

import inspect
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.core
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

# What diffrax checks at run time, by host callbacks, and every caller here has made true. JAX keeps
# no program with a callback in its compilation cache.
_ENSURED = ("Must have (t1 - t0) * dt0 >= 0", "saveat.ts must ")
# Where programs stand in programs that are run once.
_INNER = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr"}


def diffeqsolve(*args: Any, **kwargs: Any) -> dfx.Solution:
    """`diffrax.diffeqsolve` with `throw=False`, without its checks of times.

    `t0` must be `t1` at most, the first step not negative, and times to save at in order and
    between the two: none of it is checked.
    """
    solve = lambda given: dfx.diffeqsolve(*given[0], throw=False, **given[1])
    jaxpr, shape, static = eqx.filter_make_jaxpr(solve)((args, kwargs))
    given = jax.tree.leaves(eqx.filter((args, kwargs), eqx.is_array))
    made = jax.core.eval_jaxpr(_without_checks(jaxpr.jaxpr), jaxpr.consts, *given)
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(shape), made), static)


def _without_checks(jaxpr: Jaxpr) -> Jaxpr:
    """The same, where what a check passes on is what it was given."""
    same, kept = {}, []
    known = lambda v: v if isinstance(v, Literal) else same.get(v, v)
    for eqn in jaxpr.eqns:
        eqn = eqn.replace(invars=[known(v) for v in eqn.invars])
        if _is_check(eqn):
            same |= zip(eqn.outvars, eqn.invars[1:], strict=True)
            continue
        inner = _INNER.get(eqn.primitive.name)
        if inner is not None:
            made = _without_checks(eqn.params[inner].jaxpr)
            closed = ClosedJaxpr(made, eqn.params[inner].consts)
            eqn = eqn.replace(params={**eqn.params, inner: closed})
        kept.append(eqn)
    return jaxpr.replace(eqns=kept, outvars=[known(v) for v in jaxpr.outvars])


def _is_check(eqn: JaxprEqn) -> bool:
    """Whether it calls the host if something is not ensured, and else passes its inputs on."""
    if eqn.primitive.name != "cond":
        return False
    passes = [b.jaxpr for b in eqn.params["branches"] if not _raises(b.jaxpr)]
    return len(passes) == 1 and not passes[0].eqns and passes[0].outvars == passes[0].invars


def _raises(jaxpr: Jaxpr) -> bool:
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "pure_callback":
            told: Any = getattr(eqn.params["callback"], "callback_func", None)
            if getattr(told, "__module__", None) == "equinox._errors":
                messages = inspect.getclosurevars(told).nonlocals.get("msgs", ())
                return bool(messages) and all(m.startswith(_ENSURED) for m in messages)
    return False
