"""Where optax keeps an optimizer's moments, and its update with derivatives where those are 0."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from ._checks import is_concrete
from ._model import AbstractModel, AdaGrad, MemoryModel
from ._types import Moments

# The names of the moments here, and of the fields of optax's states that hold them.
FIELDS = {"m": ("mu",), "v": ("nu",), "G": ("accumulator", "sum_of_squares")}
# States around another one, which steps as it would alone, and the field that has that.
_AROUND = {
    "MaskedState": "inner_state",
    "PartitionState": "inner_states",
    "InjectHyperparamsState": "inner_state",
    "InjectStatefulHyperparamsState": "inner_state",
    "ApplyIfFiniteState": "inner_state",
    "MultiStepsState": "inner_opt_state",
}
# States with numbers that no update is made of.
_LOOKS_ON = ("SnapshotState", "MonitorState")


def first_of(opt_state: Any, name: str) -> Any:
    """The first field `name` in a state, however deep; `None` if there is none."""
    found = optax.tree_utils.tree_get_all_with_path(opt_state, name)
    return found[0][1] if found else None


def moments_from_optax(opt_state: Any, model: AbstractModel | None = None) -> Moments:
    """The raw moments in an optax state, under the names that trajectories use.

    The twin of a `MemoryModel` keeps its memories' states, which that `model` can read.
    """
    if isinstance(model, MemoryModel):
        memory = first_of(opt_state, "memory") or {}
        return {name: model.memories()[name].markov.read(z) for name, z in memory.items()}
    moments = {}
    for name, fields in FIELDS.items():
        for field in fields:
            found = [x for _, x in optax.tree_utils.tree_get_all_with_path(opt_state, field)]
            if found:
                moments[name] = _first_whole(found)
                break
    return moments


def _first_whole(found: list[PyTree[Any]]) -> PyTree[Any]:
    """The parts that masks make of a moment put together; the first of several moments."""
    try:
        return functools.reduce(_merged, found)
    except _Twice:
        return found[0]


def memories_in(opt_state: Any, model: AbstractModel) -> tuple[dict[str, PyTree[Any]], Any]:
    """The memories of `model` in the state of its discrete twin, by name, and the steps made.

    Parts of a state that masks make are put together. The steps are `None` where no part counts.

    **Raises:** `ValueError` if the state's memories are not the model's, all of them and no others.
    """
    kinds = _kinds(model)
    found, others = _parts(opt_state, kinds)
    name, own = type(model).__name__, " or ".join(kind.__name__ for kind in kinds)
    wanted = f"Argument `opt_state` must have the memories of the twin of {name}, in a {own},"
    flow = "`idemodels.InterpolatingFlow(tx)`, the model of any optimizer with a smooth step,"
    if others:
        raise ValueError(
            f"{wanted} and no others, but has a {others[0]}, which is another algorithm's. Use "
            f"{flow} or pass the part that is a {own}."
        )
    if not found:
        raise ValueError(f"{wanted} but is {type(opt_state).__name__} without one.")
    memory = _memory_of(found[0], model)
    for part in found[1:]:
        try:
            memory = _merged(memory, _memory_of(part, model))
        except _Twice:
            raise ValueError(
                f"{wanted} once, but has two for the same parameters. Use {flow} or pass one part."
            ) from None
    if memory.keys() != model.memories().keys():
        names = ", ".join(repr(name) for name in model.memories())
        raise ValueError(f"{wanted} {names}, but has {', '.join(map(repr, memory))}.")
    left_out = [path for path, x in _with_masks(memory) if isinstance(x, optax.MaskedNode)]
    if left_out:
        raise ValueError(
            f"{wanted} for every parameter, but its masks leave out "
            f"`theta{jax.tree_util.keystr(left_out[0][1:])}`, which moves by another rule, or not. "
            f"Use {flow} or solve for the others alone."
        )
    counts = [part.count for part in found if "count" in part._fields]
    if is_concrete(counts) and len({int(count) for count in counts}) > 1:
        raise ValueError(
            f"{wanted} after the same number of steps, but its parts have made "
            f"{' and '.join(str(count) for count in sorted({int(count) for count in counts}))}."
        )
    return memory, counts[0] if counts else first_of(opt_state, "count")


def _kinds(model: AbstractModel) -> list[type]:
    """The classes of state that have the memories of `model`: that in its twin, and optax's own."""
    twin = jax.eval_shape(model.optax().init, jnp.zeros(()))
    fields = {"memory"}.union(*FIELDS.values())
    kinds = [type(part) for part in twin if fields.intersection(part._fields)]
    return [*kinds, optax.ScaleByRssState] if isinstance(model, AdaGrad) else kinds


def _parts(opt_state: Any, kinds: list[type]) -> tuple[list[Any], list[str]]:
    """The parts of the wanted kinds, and the names of those that remember something else."""
    found, others = [], []

    def visit(node):
        name = type(node).__name__
        if type(node) in kinds:
            found.append(node)
        elif name in _AROUND:
            _check_whole(node)
            visit(getattr(node, _AROUND[name]))
        elif isinstance(node, dict):
            visit(tuple(node.values()))
        elif isinstance(node, tuple | list) and not hasattr(node, "_fields"):
            for part in node:
                visit(part)
        elif name not in _LOOKS_ON and any(map(eqx.is_inexact_array, jax.tree.leaves(node))):
            others.append(name)

    visit(opt_state)
    return found, others


def _check_whole(node: Any) -> None:
    """Raises in the middle of a step that is made of several gradients."""
    pending = getattr(node, "mini_step", 0)
    if is_concrete(pending) and int(pending) != 0:
        raise ValueError(
            f"Argument `opt_state` must be that after a whole step, but its MultiStepsState has "
            f"{int(pending)} gradients that are still to be used. Take it where `mini_step` is 0."
        )


def _memory_of(part: Any, model: AbstractModel) -> dict[str, PyTree[Any]]:
    """The states of the memories in a part, leaves `(n, *shape)`; what is masked stays so."""
    if hasattr(part, "memory"):
        return part.memory
    # the memories of these models have one state each
    held = {name: next(f for f in FIELDS[name] if hasattr(part, f)) for name in model.memories()}
    lead = lambda x: x[None] if eqx.is_inexact_array(x) else x
    return {name: jax.tree.map(lead, getattr(part, field)) for name, field in held.items()}


class _Twice(Exception):
    """Two pytrees have arrays in the same place."""


def _merged(a: PyTree[Any], b: PyTree[Any]) -> PyTree[Any]:
    """One pytree of two, each of which has `optax.MaskedNode` where the other has arrays."""
    if isinstance(a, optax.MaskedNode):
        return b
    if isinstance(b, optax.MaskedNode):
        return a
    (ours, treedef), (theirs, other) = _children(a), _children(b)
    if treedef != other or any(x is a for x in ours):
        raise _Twice
    return jax.tree.unflatten(treedef, map(_merged, ours, theirs))


def _children(tree: PyTree[Any]) -> tuple[list[Any], Any]:
    return jax.tree.flatten(tree, is_leaf=lambda x: x is not tree)


def _with_masks(tree: PyTree[Any]) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=lambda x: isinstance(x, optax.MaskedNode)
    )


def lifted(opt_state: Any) -> Any:
    """The state with second moments of 0 a hair above it, whose root is nothing beside an eps."""
    fields = {field for name in ("v", "G") for field in FIELDS[name]}

    def lift(path, x):
        if not any(getattr(key, "name", None) in fields for key in path):
            return x
        return jnp.where(x == 0, jnp.asarray(float(jnp.finfo(x.dtype).tiny) ** 0.75, x.dtype), x)

    return jax.tree_util.tree_map_with_path(lift, opt_state)


@eqx.filter_custom_jvp
def updated(update: Any, g: PyTree[Array], theta: PyTree[Array], opt_state: Any) -> Any:
    """`update(g, theta, opt_state)`, with derivatives also where there was no gradient yet.

    There optax differentiates the root of a second moment at 0, and has NaN: for a pixel that is
    black in all images, say. The update is 0 then, and its derivative is that beside 0.
    """
    return update(g, theta, opt_state)


@updated.def_jvp
def _updated_jvp(primals: Any, tangents: Any) -> Any:
    update, g, theta, opt_state = primals
    beside = update, g, theta, lifted(opt_state)
    with jax.numpy_dtype_promotion("standard"):
        _, moved = eqx.filter_jvp(lambda update, *x: update(*x), beside, tangents)
        return update(g, theta, opt_state), moved
