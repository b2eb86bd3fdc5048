"""`diffrax.diffeqsolve` as a program that never asks the host, and is quick to compile."""

import collections
import inspect
import itertools
from collections.abc import Mapping
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.core
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

# What diffrax checks at run time, by host callbacks, and every caller here has made true. JAX keeps
# no program with a callback in its compilation cache.
_ENSURED = ("Must have (t1 - t0) * dt0 >= 0", "saveat.ts must ")
# So many equal calls in a row are a loop.
_MANY = 10
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
    made = jax.core.eval_jaxpr(_rewritten(jaxpr.jaxpr), jaxpr.consts, *given)
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(shape), made), static)


def _rewritten(jaxpr: Jaxpr) -> Jaxpr:
    """The same, where a check passes on what it was given, and calls in a row are a loop."""
    same, kept = {}, []
    known = lambda v: v if isinstance(v, Literal) else same.get(v, v)
    for eqn in jaxpr.eqns:
        eqn = eqn.replace(invars=[known(v) for v in eqn.invars])
        if _is_check(eqn):
            same |= zip(eqn.outvars, eqn.invars[1:], strict=True)
            continue
        inner = _INNER.get(eqn.primitive.name)
        if inner is not None:
            made = _rewritten(eqn.params[inner].jaxpr)
            closed = ClosedJaxpr(made, eqn.params[inner].consts)
            eqn = eqn.replace(params={**eqn.params, inner: closed})
        kept.append(eqn)
    return _looped(jaxpr.replace(eqns=kept, outvars=[known(v) for v in jaxpr.outvars]))


def _looped(jaxpr: Jaxpr) -> Jaxpr:
    """The same, where a chain of equal calls, each of what the one before made, is one loop.

    diffrax takes the number before the end of the path, the one before that, and so on, a hundred
    calls in a row: they take half a second to compile.
    """
    read = itertools.chain(jaxpr.outvars, *(eqn.invars for eqn in jaxpr.eqns))
    uses = collections.Counter(v for v in read if not isinstance(v, Literal))
    chains: list[list[JaxprEqn]] = []
    for eqn in jaxpr.eqns:
        if chains and _calls_again(chains[-1][-1], eqn, uses):
            chains[-1].append(eqn)
        else:
            chains.append([eqn])
    made = [_loop(calls) if len(calls) >= _MANY else calls for calls in chains]
    return jaxpr.replace(eqns=list(itertools.chain(*made)))


def _calls_again(before: JaxprEqn, eqn: JaxprEqn, uses: Mapping[Any, int]) -> bool:
    """Whether it applies the function of `before` to its output, which nothing else reads."""
    if not (_of_a_number(before) and _of_a_number(eqn)):
        return False
    made = before.outvars[0]
    if eqn.invars[0] is not made or uses[made] != 1:
        return False
    return str(before.params["call_jaxpr"]) == str(eqn.params["call_jaxpr"])


def _of_a_number(eqn: JaxprEqn) -> bool:
    """Whether it calls a function, with a derivative of its own, from a number to a number."""
    shapes = [getattr(v.aval, "shape", None) for v in (*eqn.invars, *eqn.outvars)]
    return eqn.primitive.name == "custom_jvp_call" and shapes == [(), ()]


def _loop(calls: list[JaxprEqn]) -> list[JaxprEqn]:
    """The equations of a loop that makes the value of the last call."""
    first, made = calls[0], calls[-1].outvars[0]
    number: Any = made.aval
    of = first.params["call_jaxpr"].jaxpr
    call = of.replace(invars=first.invars, outvars=first.outvars, eqns=[first])
    again = lambda _, x: jax.core.eval_jaxpr(call, (), x)[0]
    loop = jax.make_jaxpr(lambda x: jax.lax.fori_loop(0, len(calls), again, x))
    jaxpr = loop(jax.ShapeDtypeStruct((), number.dtype)).jaxpr
    renamed = {jaxpr.invars[0]: first.invars[0], jaxpr.outvars[0]: made}
    name = lambda v: v if isinstance(v, Literal) else renamed.get(v, v)
    return [
        eqn.replace(invars=[name(v) for v in eqn.invars], outvars=[name(v) for v in eqn.outvars])
        for eqn in jaxpr.eqns
    ]


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
