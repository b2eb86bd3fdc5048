"""What other packages do not promise, and this one uses: each name here, with its reason.

A release that changes one fails here, by name, and not in the middle of a solve.
"""

import ast
import dataclasses
import importlib
import inspect
import types
from pathlib import Path

import diffrax as dfx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import optax
import optax.contrib
import pytest
from diffrax import _integrate

import idemodels as ide
from idemodels import _optax_state
from idemodels._flow import state as flow_state
from idemodels._method import control, unchecked
from idemodels._model.adagrad import ScaleByAdaGradState

HOME = Path(ide.__file__).parent
MODULES = ("equinox.internal", "jax.core", "jax.extend.core", "jax.interpreters")
REASONS = {
    "equinox.internal.unvmap_any": "a branch stays a branch under vmap",
    "equinox.internal.while_loop": "a loop whose lanes write into large arrays in place",
    "equinox.internal.buffer_at_set": "how such a loop writes",
    "equinox.internal.nondifferentiable": "an error in words where reverse mode is taken twice",
    "equinox.internal.nondifferentiable_backward": "the same for a forward-mode adjoint",
    "jax.core.Tracer": "whether a value is known while Python runs",
    "jax.core.eval_context": "whether a call is the outermost",
    "jax.core.eval_jaxpr": "runs diffrax's program without its checks",
    "jax.extend.core.get_opaque_trace_state": "whether a call is the outermost",
    "jax.extend.core.ClosedJaxpr": "programs that are rewritten, or compared",
    "jax.extend.core.Jaxpr": "programs that are rewritten, or compared",
    "jax.extend.core.JaxprEqn": "programs that are rewritten",
    "jax.extend.core.Literal": "programs that are rewritten, or compared",
    "jax.extend.core.Primitive": "a derivative that is NaN unless it is 0",
    "jax.interpreters.ad": "its rules",
    "jax.interpreters.batching": "its rules",
    "jax.interpreters.mlir": "its rules",
}


def _used(tree: ast.Module) -> set[str]:
    """The names that a module takes from `MODULES`."""
    aliases, found = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {a.asname or a.name: a.name for a in node.names if a.name in MODULES}
        if isinstance(node, ast.ImportFrom) and node.module in MODULES:
            found |= {f"{node.module}.{a.name}" for a in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            module = aliases.get(ast.unparse(node.value))
            found |= {f"{module}.{node.attr}"} if module else set()
    return found


def test_every_private_name_that_is_used_is_listed():
    used = set()
    for path in HOME.rglob("*.py"):
        used |= _used(ast.parse(path.read_text(encoding="utf-8")))
    assert used == set(REASONS)


@pytest.mark.parametrize("name", REASONS)
def test_a_listed_name_is_there(name):
    module, attribute = name.rsplit(".", 1)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except AttributeError:
        found = importlib.import_module(name)
    assert found is not None


def test_no_module_of_another_package_is_imported_that_is_named_private():
    for path in HOME.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            private = [n for n in names if any(part.startswith("_") for part in n.split("."))]
            assert private in ([], ["__future__"]), path


def test_a_branch_stays_a_branch_under_vmap():
    run = lambda x: jax.lax.cond(eqxi.unvmap_any(x > 0), lambda: x, lambda: -x)
    primitives = {e.primitive.name for e in jax.make_jaxpr(jax.vmap(run))(jnp.ones(3)).eqns}
    assert "cond" in primitives


@pytest.mark.parametrize("smallest", [True, False])
def test_the_place_of_diffrax_smallest_step(smallest):
    """`ClipStepSizeController` keeps the state of `PIDController`: third, whether the next step is
    the smallest."""
    pid = dfx.PIDController(0.0, 1.0, norm=jnp.abs, dtmin=0.5 if smallest else 1e-9)
    guarded = dfx.ClipStepSizeController(pid)
    term = dfx.ODETerm(lambda t, y, args: -y)
    y, of = jnp.zeros(()), lambda t, y, args: y
    t0, t1 = jnp.zeros(()), jnp.full((), 0.6)
    _, state = guarded.init(term, t0, t1, y, t1, None, of, 2.0)
    large = jnp.full((), 4.0)  # scaled: four times what is allowed
    *_, state, _ = guarded.adapt_step_size(t0, t1, y, y, None, large, 2.0, state)
    assert bool(control._forced(state)) is smallest


def test_the_fields_of_the_state_of_diffrax_loop():
    read = {"y", "tprev", "tnext", "made_jump", "solver_state", "num_accepted_steps", "save_state"}
    assert read <= {field.name for field in dataclasses.fields(_integrate.State)}
    saved = {field.name for field in dataclasses.fields(_integrate.SaveState)}
    assert {"saveat_ts_index", "ys"} <= saved


def test_the_words_of_diffrax_checks():
    """They are looked for in programs, to leave them out."""
    text = inspect.getsource(importlib.import_module("diffrax._integrate"))
    for words in unchecked._ENSURED:
        assert words in text


def _states() -> dict[str, type]:
    """The states of optax, by the names of their classes."""
    found, modules, seen = {}, [optax, optax.contrib], set()
    while modules:
        module = modules.pop()
        seen.add(module.__name__)
        for thing in vars(module).values():
            if isinstance(thing, type) and issubclass(thing, tuple) and hasattr(thing, "_fields"):
                found[thing.__name__] = thing
            inner = isinstance(thing, types.ModuleType) and thing.__name__.startswith("optax")
            if inner and thing.__name__ not in seen:
                modules.append(thing)
    return found


STATES = _states()
NAMED = {
    *_optax_state._AROUND,
    *_optax_state._LOOKS_ON,
    *flow_state._REFUSED,
    *flow_state._OTHERS,
    *flow_state._ROUGH,
}


@pytest.mark.parametrize("name", sorted(NAMED))
def test_a_state_of_optax_is_there(name):
    assert name in STATES
    field = _optax_state._AROUND.get(name)
    assert field is None or field in STATES[name]._fields


FIELDS = {f for fields in _optax_state.FIELDS.values() for f in fields} | flow_state._NONNEGATIVE


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_field_of_a_state_is_in_some_state(name):
    states = [*STATES.values(), ScaleByAdaGradState]
    assert any(name in state._fields for state in states)
