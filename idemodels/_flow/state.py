"""An optimizer's state as part of a flow's: what moves, what is fixed, and what cannot flow."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .walk import sign_of_moving

# States that change by a rule that no flow has, and why, with what can be done.
_REFUSED = {
    "MultiStepsState": "moves the parameters at some of its updates only",
    "LookaheadState": "goes back at some of its updates",
    "SAMState": "goes back at some of its updates",
    "ScaleByLBFGSState": "keeps a list of past iterates",
    "ScaleByBacktrackingLinesearchState": "searches along a line",
    "ScaleByZoomLinesearchState": "searches along a line",
    "ReduceLROnPlateauState": "waits for a plateau, and then jumps",
    "ApplyIfFiniteState": "leaves updates out",
    "ConditionallyMaskState": "leaves updates out",
    "ConditionallyTransformState": "leaves updates out",
    "GaLoreState": "changes its projection at some of its updates only",
}
# Where "nu" is another thing.
_OTHERS = {"ScaleBySM3State": "is a momentum"}
# What makes a step rough that is none of the above.
_ROUGH = {
    "FactoredState": "clips by the size of whole blocks",
}
# The fields in which optax keeps what is never negative, and may be slightly so along a solver's
# step: squares and roots of them are taken.
_NONNEGATIVE = {
    "nu",
    "nu_max",
    "n",
    "accumulator",
    "sum_of_squares",
    "grad_sum_of_squares",
    "grad_sum_sq",
    "sum_sq_norm_grads",
    "weighted_sq_norm_grads",
    "exp_avg_sq",
    "e_g",
    "e_x",
    "v_row",
    "v_col",
}


class Layout(eqx.Module):
    """How an optimizer's state is made of what moves and what is fixed.

    - `treedef`: of the state.
    - `names`: of its leaves, by their paths.
    - `moves`: which of them do; the others are `fixed`.
    - `counts`: which of them are counters, as floats.
    - `nonnegative`: which of them are clamped at 0.
    - `rough`: what of the update is known not to be smooth, in words; `None` if nothing is.
    """

    treedef: Any = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)
    moves: tuple[bool, ...] = eqx.field(static=True)
    counts: tuple[bool, ...] = eqx.field(static=True)
    nonnegative: tuple[bool, ...] = eqx.field(static=True)
    rough: str | None = eqx.field(static=True)
    fixed: tuple[Array | None, ...]

    def memory(self, opt_state: Any) -> dict[str, Array]:
        """What moves, by name, with a leading axis of 1 as the states of a memory have it."""
        leaves = self.treedef.flatten_up_to(opt_state)
        named = zip(self.names, self.moves, leaves, strict=True)
        return {name: x[None] for name, moves, x in named if moves}

    def opt_state(self, memory: dict[str, Array]) -> Any:
        """The optimizer's state, counters as floats."""
        leaves = []
        for name, moves, clamped, fixed in zip(
            self.names, self.moves, self.nonnegative, self.fixed, strict=True
        ):
            if not moves:
                leaves.append(fixed)
                continue
            x = memory[name][0]
            leaves.append(jnp.maximum(x, 0) if clamped else x)
        return jax.tree.unflatten(self.treedef, leaves)

    def clamped(self, memory: dict[str, Array]) -> dict[str, Array]:
        """What moves, with second moments at 0 where they are below."""
        below = dict(zip(self.names, self.nonnegative, strict=True))
        return {name: jnp.maximum(x, 0) if below[name] else x for name, x in memory.items()}


def by_path(opt_state: Any) -> dict[str, Array]:
    """The leaves of an optimizer's state, as the memory of a flow's state names them."""
    leaves = jax.tree_util.tree_leaves_with_path(opt_state)
    return {jax.tree_util.keystr(path): jnp.asarray(x)[None] for path, x in leaves}


def layout_of(
    tx: optax.GradientTransformation,
    theta: PyTree[Array],
    step: Callable[[PyTree[Array], Any, PyTree[Array]], tuple[PyTree[Array], Any]],
    dtype: Any,
) -> tuple[Layout, Any]:
    """The layout of the state of `tx`, and that state at the start; nothing is computed but it.

    **Arguments:**

    - `step`: of gradient, state and parameters, the updates and the next state.

    **Raises:** `ValueError` if the state cannot flow.
    """
    opt_state = tx.init(theta)
    _refuse_by_name(opt_state)
    with_paths, treedef = jax.tree_util.tree_flatten_with_path(opt_state)
    names = tuple(jax.tree_util.keystr(path) for path, _ in with_paths)
    leaves = [_strong(x, name, dtype) for name, (_, x) in zip(names, with_paths, strict=True)]
    jaxpr, changes = _which_change(step, theta, jax.tree.unflatten(treedef, leaves))
    # arrays of floats always do: the start, which some keep, is so handed on with the state
    arrays = (bool(jnp.issubdtype(x.dtype, jnp.floating)) and x.ndim > 0 for x in leaves)
    moves = tuple(a or b for a, b in zip(changes, arrays, strict=True))
    counts = tuple(
        bool(moving and jnp.issubdtype(jnp.result_type(x), jnp.signedinteger) and not jnp.ndim(x))
        for moving, (_, x) in zip(moves, with_paths, strict=True)
    )
    for name, x, moving in zip(names, leaves, moves, strict=True):
        if moving and not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                "Argument `tx` must have a state whose changing leaves are floating arrays or "
                f"counters, but has `state{name}` of type {x.dtype}, which no flow moves."
            )
    fields = [{getattr(key, "name", None) for key in path} for path, _ in with_paths]
    squares = _NONNEGATIVE - ({"nu"} if _first_of(_OTHERS, opt_state) else set())
    nonnegative = tuple(bool(keys & squares) for keys in fields)
    fixed = tuple(None if m else x for m, x in zip(moves, leaves, strict=True))
    signs = sign_of_moving(jaxpr, counts, moves)
    rough = "its update takes signs" if signs else _first_of(_ROUGH, opt_state)
    layout = Layout(treedef, names, moves, counts, nonnegative, rough, fixed)
    return layout, jax.tree.unflatten(treedef, leaves)


def _strong(x: Any, name: str, dtype: Any) -> Array:
    """A leaf as an array that is strongly typed: of signed integers, as floats."""
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise ValueError(
            f"Argument `tx` must have a real state, but has `state{name}` of type {x.dtype}."
        )
    if jnp.issubdtype(x.dtype, jnp.signedinteger):
        return jnp.asarray(x, dtype)
    return jnp.asarray(x, x.dtype)


def _which_change(step: Any, theta: PyTree[Array], opt_state: Any) -> tuple[Any, tuple[bool, ...]]:
    """The update as a program, and which leaves of the state it does not hand through."""
    structure = jax.tree.structure(opt_state)
    try:
        jaxpr, (_, out) = jax.make_jaxpr(step, return_shape=True)(theta, opt_state, theta)
    except jax.errors.ConcretizationTypeError as e:
        raise ValueError(
            "Argument `tx` must be a transformation whose update JAX can trace, but it needs the "
            f"value of an array: {str(e).splitlines()[0]} In a schedule write "
            "`jnp.where(step < 10, a, b)` for `if`."
        ) from None
    except TypeError as e:
        raise ValueError(
            "Argument `tx` must be a transformation whose update needs gradient, state and "
            f"parameters alone, but it raises: {e}"
        ) from None
    if jax.tree.structure(out) != structure:
        raise ValueError(
            "Argument `tx` must be a transformation that keeps the structure of its state, but it "
            "does not."
        )
    begin, count = len(jax.tree.leaves(theta)), structure.num_leaves
    given, made = (x[begin : begin + count] for x in (jaxpr.jaxpr.invars, jaxpr.jaxpr.outvars))
    return jaxpr, tuple(a is not b for a, b in zip(given, made, strict=True))


def _refuse_by_name(opt_state: Any) -> None:
    found = _first_of(_REFUSED, opt_state)
    if found is not None:
        raise ValueError(
            f"Argument `tx` must be an optimizer whose step is a smooth map, but {found}: no flow "
            "does."
        )


def _first_of(reasons: dict[str, str], opt_state: Any) -> str | None:
    """What is said of the first part of a state that has a name in `reasons`."""
    found: list[str] = []

    def visit(node: Any) -> bool:
        name = type(node).__name__
        if name in reasons:
            found.append(f"its {name.removesuffix('State')} {reasons[name]}")
        return False

    jax.tree.leaves(opt_state, is_leaf=visit)
    return found[0] if found else None
