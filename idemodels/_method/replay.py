"""Reverse mode through a solve by its accepted steps alone, recomputed one by one.

diffrax's own adjoints differentiate its whole loop, with the controller, the rejected steps and the
saving in it. Such a loop is traced some twenty times. The ends of steps carry no derivative here,
so that the accepted steps are all there is to differentiate.
"""

import functools
from typing import Any

import diffrax as dfx
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .._types import Count
from .base import constant
from .with_tangent import WithTangent

# The part of the checkpoints that the forward pass of a long solve fills.
_FILLED = 0.75
# With this many checkpoints few steps are recomputed. Transposing those too costs less than to
# compile a branch.
_RARELY = 1024
_ONCE = (
    "Argument `adjoint` must be one for second derivatives, but is None, which is differentiated "
    "once. For a Hessian pass `adjoint=diffrax.ForwardMode()`, and take `jax.jacfwd` twice."
)


class Replay(dfx.AbstractAdjoint):
    """Discretise-then-optimise, as by `diffrax.RecursiveCheckpointAdjoint`, in a smaller program.

    The forward pass keeps the ends of all accepted steps. It keeps the state before each of them
    while there are checkpoints, then before every second, every fourth, and so on. The reverse pass
    recomputes the others.

    Values at `SaveAt(ts=)` are differentiated in their times too; `t0`, `t1` and `dt0` carry no
    derivative. Events, dense output and saved steps are left to
    `diffrax.RecursiveCheckpointAdjoint`.

    - `checkpoints`: how many states are kept.
    """

    checkpoints: int

    def loop(self, *, throw, passed_solver_state, passed_controller_state, **given):
        """**Returns:** the state of diffrax's loop at its end, and what else it returns."""
        saveat = given["saveat"]
        if given["event"] is not None or given["max_steps"] is None or not _at_times(saveat):
            flags = {"throw": throw, "passed_solver_state": passed_solver_state}
            flags["passed_controller_state"] = passed_controller_state
            return dfx.RecursiveCheckpointAdjoint(self.checkpoints).loop(**given, **flags)
        lax = functools.partial(eqxi.while_loop, kind="lax")
        step = _Step(given["terms"], given["solver"], given["args"])
        outer = functools.partial(self._looped, step, _subs(saveat))
        return self._loop(**given, inner_while_loop=lax, outer_while_loop=outer)

    def _looped(self, step, subs, cond_fun, body_fun, init, *, max_steps, buffers):
        """The loop, whose derivative is that of its accepted steps."""

        def plain(init):
            return eqxi.while_loop(
                cond_fun, body_fun, init, kind="lax", max_steps=max_steps, buffers=buffers
            )

        def recorded(init):
            rows = min(self.checkpoints, max_steps)
            record = _Record.empty(_arrays(step.state_of(init)), init.tprev, rows, max_steps)
            return eqxi.while_loop(
                lambda carry: cond_fun(carry[0]),
                lambda carry: (body_fun(carry[0]), carry[1].seen(carry[0], step)),
                (init, record),
                kind="lax",
                max_steps=max_steps,
                buffers=lambda carry: (buffers(carry[0]), carry[1].buffers()),
            )

        runs = [eqx.filter_closure_convert(run, init) for run in (plain, recorded)]
        saved = [i for i, sub in enumerate(subs) if sub.ts is not None]
        often = self.checkpoints < min(_RARELY, max_steps)
        held = constant((runs, init, saved, often))
        functions = step.converted(init, [subs[i].fn for i in saved])
        moving = functions, _arrays(step.state_of(init)), [subs[i].ts for i in saved]
        final, outputs = _solved(moving, held)
        return eqx.tree_at(lambda state: _outputs(state, saved), constant(final), outputs)


class _Step(eqx.Module):
    """A step of a solver, and what is saved of it, without the tangent of `WithTangent`."""

    terms: Any
    solver: Any
    args: Any

    @property
    def _bare(self) -> dfx.AbstractSolver:
        return self.solver.solver if isinstance(self.solver, WithTangent) else self.solver

    def state_of(self, state: Any) -> tuple[Any, Any]:
        """What a step begins with: y, and the solver's state."""
        with_tangent = isinstance(self.solver, WithTangent)
        return state.y, state.solver_state[0] if with_tangent else state.solver_state

    def converted(self, init: Any, fns: list[Any]) -> Any:
        """Functions of arrays alone: a step, and what each of `fns` saves of it."""
        jump = jnp.zeros((), bool)
        given = _arrays((self.state_of(init), init.tprev, init.tnext, jump))

        def step(start, t0, t1, jump):
            y, state = start
            y1, _, dense, state, _ = self._bare.step(self.terms, t0, t1, y, self.args, state, jump)
            return (y1, state), dense

        made = eqx.filter_closure_convert(step, *given)
        _, dense = eqx.filter_eval_shape(made, *given)

        def saving(fn):
            def save(t, t0, t1, dense):
                path = self._bare.interpolation_cls(t0=t0, t1=t1, **dense)
                return fn(t, path.evaluate(t), self.args)

            return eqx.filter_closure_convert(save, given[1], given[1], given[2], dense)

        return made, [saving(fn) for fn in fns]


class _Record(eqx.Module):
    """The accepted steps of a solve.

    - `t0`, `t1`, `jump`: of each, where it begins and ends, and whether it follows a jump.
    - `states`: what some of them begin with, a row of each leaf for each.
    - `which`: the number of the step that a row is of; negative where it is of none.
    - `stride`: a row is kept for every so many steps.
    """

    t0: Any  # these are arrays, and in a loop buffers
    t1: Any
    jump: Any
    states: PyTree[Any]
    which: Any
    stride: Count

    @classmethod
    def empty(cls, state: Any, t: Any, rows: int, steps: int) -> "_Record":
        """Room for as many rows and steps."""
        arrays = eqx.filter(state, eqx.is_array)
        states = jax.tree.map(lambda x: jnp.zeros((rows, *x.shape), x.dtype), arrays)
        time = jnp.zeros(steps, jnp.result_type(t))
        which = jnp.full(rows, -1)
        return cls(time, time, jnp.zeros(steps, bool), states, which, jnp.ones((), which.dtype))

    def buffers(self) -> Any:
        """What is too large to be copied at each step."""
        return self.t0, self.t1, self.jump, self.states, self.which

    def seen(self, state: Any, step: _Step) -> "_Record":
        """The record with the attempt from `state`; the next one overwrites a rejected one."""
        k, rows = jnp.asarray(state.num_accepted_steps, self.stride.dtype), self.which.shape[-1]
        most = jnp.where(self.stride == 1, rows, max(2, 2 * int(_FILLED * rows / 2)))
        stride = jnp.where(k >= most * self.stride, 2 * self.stride, self.stride)

        def found():
            which = self.which[:]
            free = (which < 0) | (which % stride > 0)
            new = (k % stride == 0) & jnp.all(which != k) & jnp.any(free)
            return jnp.argmax(free).astype(k.dtype), new

        row, new = self._searched(stride, found, (k, jnp.ones((), bool)))
        record = self._kept(k, step.state_of(state), row, new)
        return _Record(
            eqxi.buffer_at_set(self.t0, k, state.tprev),
            eqxi.buffer_at_set(self.t1, k, state.tnext),
            eqxi.buffer_at_set(self.jump, k, state.made_jump),
            record.states,
            record.which,
            stride,
        )

    def before(self, k: Any) -> tuple[Any, Any, Any]:
        """The last row before or at the step `k`: its step, its state, and the stride from there.

        The stride fills half of the spare rows with the steps between.
        """

        def found():
            which = self.which[:]
            known = jnp.where(which <= k, which, -1)
            row = jnp.argmax(known).astype(k.dtype)
            spare = jnp.sum((which < 0) | (which > k)).astype(k.dtype)
            return row, known[row], (k - known[row]) // jnp.maximum(spare // 2, 1) + 1

        each = jnp.maximum(k, 0), k, jnp.ones((), k.dtype)
        row, step, stride = self._searched(self.stride, found, each)
        state = jax.tree.map(lambda rows: rows[row], self.states, is_leaf=_has_index)
        return step, state, stride

    def passed(self, k: Any, state: Any, new: Any, last: Any) -> "_Record":
        """The record with a row for the step `k`, where it is `new`; rows past `last` are free."""

        def found():
            which = self.which[:]
            free = (which < 0) | (which > last)
            return jnp.argmax(free).astype(k.dtype), new & jnp.any(free)

        none = jnp.zeros((), k.dtype), jnp.zeros((), bool)
        return self._kept(k, state, *self._searched(self.stride, found, none))

    def _searched(self, stride: Any, found: Any, dense: Any) -> Any:
        """What is `found` in all rows; `dense` where the row of each step has its number."""
        return jax.lax.cond(eqxi.unvmap_any(stride > 1), found, lambda: dense)

    def _kept(self, k: Any, state: Any, row: Any, new: Any) -> "_Record":
        """The record with `state` before the step `k` in this row, where it is `new`."""
        arrays = eqx.filter(state, eqx.is_array)
        put = lambda rows, x: eqxi.buffer_at_set(rows, row, x, pred=new)
        states = jax.tree.map(put, self.states, arrays, is_leaf=_has_index)
        return eqx.tree_at(lambda r: (r.states, r.which), self, (states, put(self.which, k)))


class _Reverse(eqx.Module):
    """How far the reverse pass has come.

    - `target`: the step to be transposed next; `step`: the one that `state` begins.
    - `stride`: every so many steps on the way to the target get a row of `record`.
    - `saved`: how many values of each output were saved up to the target.
    - `of_state`, `of_functions`, `of_ts`: the cotangents.
    """

    target: Any
    step: Any
    state: Any
    stride: Any
    record: _Record
    saved: list[Any]
    of_state: Any
    of_functions: Any
    of_ts: list[Any]


@eqx.filter_custom_vjp
def _solved(moving, held):
    del moving
    (plain, _), init, saved, _ = held
    final = plain(init)
    return final, _outputs(final, saved)


@_solved.def_fwd
def _solved_fwd(perturbed, moving, held):
    del perturbed
    (_, recorded), init, saved, _ = held
    final, record = recorded(init)
    counts = [_save_states(final)[i].saveat_ts_index for i in saved]
    once = eqxi.nondifferentiable(moving, msg=_ONCE)
    return (final, _outputs(final, saved)), (record, final.num_accepted_steps, counts, once)


@_solved.def_bwd
def _solved_bwd(residuals, grads, perturbed, moving, held):
    del moving
    record, count, counts, (functions, start, ts) = residuals
    differentiated, still = eqx.partition(functions, perturbed[0])
    often = held[-1]
    _, (of_y, *of_saved) = grads
    moves = eqx.filter(start, eqx.is_inexact_array)
    whole = lambda arrays: eqx.combine(arrays, eqx.filter(start, eqx.is_array, inverse=True))

    def body(carry: _Reverse) -> _Reverse:
        k = carry.step
        t0, t1, jump = (x[k] for x in (carry.record.t0, carry.record.t1, carry.record.jump))
        begin, fixed = eqx.partition(whole(carry.state), eqx.is_inexact_array)

        def step(moving, begin):
            made, _ = eqx.combine(moving, still)
            end, dense = made(eqx.combine(begin, fixed), t0, t1, jump)
            parts = eqx.partition((end, dense), eqx.is_inexact_array)
            return parts[0], (parts[1][1], end)

        (_, dense), pull, (others, ahead) = eqx.filter_vjp(
            step, differentiated, begin, has_aux=True
        )
        here = k == carry.target
        before = jnp.where(k > 0, carry.record.t1[jnp.maximum(k - 1, 0)], -jnp.inf)
        before = jnp.where(here, before, jnp.inf)

        def of_saves(i, many, of_dense, of_function, of_ts):
            """The cotangents with those of the values of one output saved in this step."""

            def save(function, t, dense):
                fn = eqx.combine(function, still[1][i])
                return eqx.filter(fn(t, t0, t1, eqx.combine(dense, others)), eqx.is_inexact_array)

            def one(carry):
                many, of_dense, of_function, of_ts = carry
                row, t = many - 1, ts[i][many - 1]
                made, pull = eqx.filter_vjp(save, differentiated[1][i], t, dense)
                of_row = jax.tree.map(lambda x: x[row], of_saved[i])
                more, of_t, of_path = pull(_filled(of_row, made))
                of_ts = None if of_ts is None else of_ts.at[row].set(of_t)
                return row, _sum(of_dense, of_path), _sum(of_function, more), of_ts

            inside = lambda carry: (carry[0] > 0) & (ts[i][carry[0] - 1] > before)
            return jax.lax.while_loop(inside, one, (many, of_dense, of_function, of_ts))

        def transposed():
            of_dense = jax.tree.map(jnp.zeros_like, dense)
            of_step, of_fns = carry.of_functions
            saved, of_fns, of_ts = list(carry.saved), list(of_fns), list(carry.of_ts)
            for i, of_rows in enumerate(of_saved):
                if jax.tree.leaves(of_rows):
                    given = saved[i], of_dense, of_fns[i], of_ts[i]
                    saved[i], of_dense, of_fns[i], of_ts[i] = of_saves(i, *given)
            more, of_begin = pull((carry.of_state, of_dense))
            return of_begin, _sum((of_step, of_fns), more), of_ts, saved

        def stays():
            return carry.of_state, carry.of_functions, carry.of_ts, carry.saved

        found = jax.lax.cond(eqxi.unvmap_any(here), transposed, stays) if often else transposed()
        choose = lambda a, b: jnp.where(here, a, b)
        of_state, of_functions, of_ts, saved = jax.tree.map(choose, found, stays())
        target = jnp.where(here, k - 1, carry.target)
        ahead = eqx.filter(_arrays(ahead), eqx.is_array)
        new = ~here & ((k + 1) % carry.stride == 0) & (k + 1 < target)
        # written before it is read, so that nothing is copied
        record = carry.record.passed(k + 1, ahead, new, target)
        back, state, stride = record.before(target)
        return _Reverse(
            target,
            choose(back, k + 1),
            jax.tree.map(choose, state, ahead),
            choose(stride, carry.stride),
            record,
            saved,
            of_state,
            of_functions,
            of_ts,
        )

    last = jnp.asarray(count, record.stride.dtype) - 1
    zeros = lambda tree: jax.tree.map(jnp.zeros_like, eqx.filter(tree, eqx.is_inexact_array))
    of_ts = [zeros(t) if moves else None for t, moves in zip(ts, perturbed[2], strict=True)]
    of_state = _filled(of_y, moves[0]), zeros(moves[1])
    step, state, stride = record.before(last)
    begin = _Reverse(
        last, step, state, stride, record, counts, of_state, zeros(differentiated), of_ts
    )
    final = eqxi.while_loop(
        lambda carry: carry.target >= 0,
        body,
        begin,
        kind="lax",
        buffers=lambda carry: carry.record.buffers(),
    )
    return final.of_functions, final.of_state, final.of_ts


def _at_times(saveat: dfx.SaveAt) -> bool:
    """Whether values are saved at given times and at the end, and nowhere else."""
    return not saveat.dense and all(sub.steps == 0 and not sub.t0 for sub in _subs(saveat))


def _subs(saveat: dfx.SaveAt) -> list[dfx.SubSaveAt]:
    is_sub = lambda x: isinstance(x, dfx.SubSaveAt)
    return [x for x in jax.tree.leaves(saveat.subs, is_leaf=is_sub) if is_sub(x)]


def _save_states(state: Any) -> list[Any]:
    is_state = lambda x: hasattr(x, "saveat_ts_index")
    return [x for x in jax.tree.leaves(state.save_state, is_leaf=is_state) if is_state(x)]


def _outputs(state: Any, saved: list[int]) -> list[Any]:
    """What of a loop's state is differentiated: y, and the values that were saved."""
    states = _save_states(state)
    return [state.y, *(states[i].ys for i in saved)]


def _arrays(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x) if eqx.is_array_like(x) else x, tree)


def _filled(cotangents: Any, like: Any) -> Any:
    """Cotangents of each array of `like`, zero where there is none."""
    none = lambda x: x is None
    made = lambda x, c: None if x is None else jnp.zeros_like(x) if c is None else c
    return jax.tree.map(made, like, cotangents, is_leaf=none)


def _sum(a: Any, b: Any) -> Any:
    """Cotangents added, `None` where there are none in `a`."""
    none = lambda x: x is None
    add = lambda a, b: a if a is None or b is None else a + b
    return jax.tree.map(add, a, b, is_leaf=none)


def _has_index(x: Any) -> bool:
    """Whether it is an array, or a buffer of Equinox's loops."""
    return hasattr(x, "at")
