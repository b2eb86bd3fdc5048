"""A walk through an update as a program: what of it depends on its counters alone."""

import dataclasses
from typing import Any

import jax
import jax.core
import jax.numpy as jnp

# Primitives whose operands are those of the program that they hold.
_CALLS = {
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "checkpoint",
    "remat",
    "custom_jvp_call",
    "custom_vjp_call",
}
# A value behind these is the same, in another shape or type.
_SAME = {"broadcast_in_dim", "convert_element_type", "copy", "neg", "reshape", "squeeze"}
# Of a counter and a number that is traced these make nothing that jumps, turns or swings.
_SMOOTH = _SAME | {
    "add",
    "add_any",
    "cbrt",
    "div",
    "exp",
    "exp2",
    "expm1",
    "integer_pow",
    "log",
    "log1p",
    "mul",
    "pow",
    "rsqrt",
    "select_n",
    "sqrt",
    "square",
    "sub",
}


@dataclasses.dataclass(frozen=True)
class Known:
    """What is known of a value in a traced update.

    - `value`: the value itself; `None` where it is not known.
    - `counted`: whether it depends on a counter, and on neither gradient, parameters nor memories.
    - `moved`: whether it depends on one of those.
    - `source`: the value before it took another shape.
    """

    value: Any = None
    counted: bool = False
    moved: bool = False
    source: Any = None


@dataclasses.dataclass
class Met:
    """What a walk through an update met.

    - `values`: functions of the counters that go into what is not known.
    - `unsure`: whether what is traced may make a jump or a swing of a counter.
    - `signs`: whether signs are taken of what moves.
    - `eps`: of the lowest precision in which something of the counters is computed.
    """

    values: dict[int, Any] = dataclasses.field(default_factory=dict)
    unsure: bool = False
    signs: bool = False
    eps: float = 0.0


def sign_of_moving(program: Any, counts: tuple[bool, ...], moves: tuple[bool, ...]) -> bool:
    """Whether an update, of gradient, state and parameters, takes signs of more than counters.

    - `counts`, `moves`: which leaves of the state are counters, and which move.
    """
    state = [
        Known(True, counted=True) if c else Known(None if m else True, moved=m)
        for c, m in zip(counts, moves, strict=True)
    ]
    rest = [Known(moved=True)] * ((len(program.jaxpr.invars) - len(state)) // 2)
    met = Met()
    walk(program, [*rest, *state, *rest], met, evaluated=False)
    return met.signs


def walk(closed: Any, given: list[Known], met: Met, evaluated: bool) -> list[Known]:
    """What is known of the outputs of a program, from what is known of its inputs.

    `evaluated`: whether values are computed, as they go; else each that is known is `True`.
    """
    jaxpr, consts = getattr(closed, "jaxpr", closed), getattr(closed, "consts", ())
    env = dict(zip(jaxpr.invars, given, strict=True))
    for var, x in zip(jaxpr.constvars, consts, strict=True):
        known = None if isinstance(x, jax.core.Tracer) else x
        env[var] = Known(known, source=known)

    def read(atom):
        if hasattr(atom, "val"):
            return Known(atom.val, source=atom.val)
        return env[atom]

    for eqn in jaxpr.eqns:
        ins = [read(atom) for atom in eqn.invars]
        name, outs = eqn.primitive.name, None
        if name in _CALLS:
            inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
            outs = walk(inner, ins, met, evaluated)
        elif all(x.value is not None for x in ins):
            outs = _made(eqn, ins, met, evaluated)
        else:
            _meet(eqn, ins, met, evaluated)
            moved = any(x.moved for x in ins)
            counted = any(x.counted for x in ins) and not moved
            outs = [Known(counted=counted, moved=moved)] * len(eqn.outvars)
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _made(eqn: Any, ins: list[Known], met: Met, evaluated: bool) -> list[Known]:
    """The outputs of an equation all of whose inputs are known."""
    counted = any(x.counted for x in ins)
    made = [True] * len(eqn.outvars)
    for var in eqn.outvars:
        if counted and jnp.issubdtype(var.aval.dtype, jnp.floating):
            met.eps = max(met.eps, float(jnp.finfo(var.aval.dtype).eps))
    if evaluated:
        out = eqn.primitive.bind(*(x.value for x in ins), **eqn.params)
        made = list(out) if eqn.primitive.multiple_results else [out]
    if eqn.primitive.name in _SAME and ins[0].counted:
        return [Known(x, counted, source=ins[0].source) for x in made]
    return [Known(x, counted, source=x) for x in made]


def _meet(eqn: Any, ins: list[Known], met: Met, evaluated: bool) -> None:
    """Notes what of the counters goes into an equation some of whose inputs are not known."""
    name, moved = eqn.primitive.name, any(x.moved for x in ins)
    for x in ins:
        if x.counted and x.value is not None:
            met.values[id(x.source)] = x.source
    met.unsure |= not moved and any(x.counted for x in ins) and name not in _SMOOTH
    met.signs |= moved and name == "sign"
    if name == "cond":
        for branch in eqn.params["branches"]:
            walk(branch, ins[1:], met, evaluated)
    elif moved:  # a loop: not to miss its signs, nor that it may have a schedule inside
        for param in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(param):
                met.unsure |= any(x.counted for x in ins)
                unknown = [Known(moved=True)] * len(getattr(param, "jaxpr", param).invars)
                walk(param, unknown, met, evaluated)


def _is_jaxpr(x: Any) -> bool:
    return hasattr(getattr(x, "jaxpr", x), "eqns")
