"""Reverse mode through a solve: each accepted step is made again, and transposed, once.

diffrax's own adjoints transpose its whole loop: the controller, the rejected steps and the saving
are in it, and a step is traced some twenty times. Steps' ends carry no derivative here, so that the
accepted steps are all there is to transpose.
"""

import functools
from typing import Any

import diffrax as dfx
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from .._types import Count
from .with_tangent import WithTangent

# The part of the checkpoints that a long solve fills; the rest is for what reverse mode makes anew.
_FILLED = 0.75
# With room for so many states steps are rarely made anew, and a transposed one too many costs less
# than a branch, which takes as long again to compile.
_RARELY = 1024


class Replay(dfx.AbstractAdjoint):
    """Discretise-then-optimise, as by `diffrax.RecursiveCheckpointAdjoint`, in a smaller program.

    Forwards the ends of all accepted steps are kept, and the state before each of them while there
    is room, then before every second, every fourth, and so on; what is between is made anew.

    An event, dense output and saved steps are left to `diffrax.RecursiveCheckpointAdjoint`.

    - `checkpoints`: how many states there is room for.
    """

    checkpoints: int

    def loop(
        self, *, terms, solver, args, saveat, event, init_state, throw, passed_solver_state,
        passed_controller_state, **kwargs,
    ):  # fmt: skip
        """**Returns:** the state of diffrax's loop at its end, and what else it returns."""
        given: dict[str, Any] = dict(terms=terms, solver=solver, args=args, saveat=saveat)
        given |= dict(event=event, init_state=init_state, **kwargs)
        if event is not None or not _at_times(saveat):
            flags = dict(throw=throw, passed_solver_state=passed_solver_state)
            flags["passed_controller_state"] = passed_controller_state
            return dfx.RecursiveCheckpointAdjoint(self.checkpoints).loop(**given, **flags)
        lax = functools.partial(eqxi.while_loop, kind="lax")
        outer = functools.partial(self._looped, _Step(terms, solver, args), _subs(saveat))
        return self._loop(**given, inner_while_loop=lax, outer_while_loop=outer)

    def _looped(self, step, subs, cond_fun, body_fun, init, *, max_steps, buffers):
        """The loop, whose derivative is that of its accepted steps."""

        def plain(init):
            return eqxi.while_loop(
                cond_fun, body_fun, init, kind="lax", max_steps=max_steps, buffers=buffers
            )

        def recorded(init):
            room = min(self.checkpoints, max_steps)
            record = _Record.empty(_arrays(step.state_of(init)), init.tprev, room, max_steps)
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
        held = _constant((runs, init, saved, [subs[i].ts for i in saved], often))
        moving = (step.converted(init, [subs[i].fn for i in saved]), _arrays(step.state_of(init)))
        final, outputs = _solved(moving, held)
        return eqx.tree_at(lambda state: _outputs(state, saved), _constant(final), outputs)


class _Step(eqx.Module):
    """A step of a solver, and what is saved of it, without what only a controller reads."""

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
        given = (self.state_of(init), init.tprev, init.tnext, jump)
        given = _arrays(given)

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
    which: Int[Array, " m"]
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
        return self.t0, self.t1, self.jump, self.states

    def seen(self, state: Any, step: _Step) -> "_Record":
        """With the attempt that begins at `state`; one that is rejected is written over."""
        k, stride = jnp.asarray(state.num_accepted_steps, self.which.dtype), self.stride
        rows = self.which.size
        room = jnp.where(stride == 1, rows, 2 * int(_FILLED * rows / 2))
        stride = jnp.where(k >= room * stride, 2 * stride, stride)
        new = (k % stride == 0) & jnp.all(self.which != k)
        record = self._kept(
            k, step.state_of(state), new, (self.which < 0) | (self.which % stride > 0)
        )
        return _Record(
            eqxi.buffer_at_set(self.t0, k, state.tprev),
            eqxi.buffer_at_set(self.t1, k, state.tnext),
            eqxi.buffer_at_set(self.jump, k, state.made_jump),
            record.states,
            record.which,
            stride,
        )

    def _kept(self, k: Any, state: Any, new: Any, free: Any) -> "_Record":
        """With a row for the step `k`, where it is `new`, in the place of one that is `free`."""
        row, new = jnp.argmax(free), new & jnp.any(free)
        arrays = eqx.filter(state, eqx.is_array)
        put = lambda rows, x: eqxi.buffer_at_set(rows, row, x, pred=new)
        states = jax.tree.map(put, self.states, arrays, is_leaf=_has_index)
        which = self.which.at[row].set(jnp.where(new, k, self.which[row]))
        return eqx.tree_at(lambda r: (r.states, r.which), self, (states, which))

    def before(self, k: Any) -> tuple[Any, Any, Any]:
        """The last row before or at the step `k`: its step, its state, and the stride from there.

        So many of the steps between get a row of their own that half of those to spare are left.
        """
        known = jnp.where(self.which <= k, self.which, -1)
        row = jnp.argmax(known)
        state = jax.tree.map(lambda rows: rows[row], self.states, is_leaf=_has_index)
        spare = jnp.sum((self.which < 0) | (self.which > k))
        stride = jnp.maximum((k - known[row]) // jnp.maximum(spare // 2, 1), 0) + 1
        return known[row], state, stride

    def passed(self, k: Any, state: Any, new: Any, last: Any) -> "_Record":
        """With a row for the step `k`, where it is `new`; those past `last` are free."""
        return self._kept(k, state, new, (self.which < 0) | (self.which > last))


class _Reverse(eqx.Module):
    """How far a transposed solve has come.

    - `target`: the step to be transposed next; `step`: the one that `state` begins.
    - `stride`: a row is kept of every so many steps on the way to the target.
    - `saved`: how many values of each output were saved up to the target.
    - `of_state`, `of_functions`: the cotangents.
    """

    target: Any
    step: Any
    state: Any
    stride: Any
    record: _Record
    saved: list[Any]
    of_state: Any
    of_functions: Any


@eqx.filter_custom_vjp
def _solved(moving, held):
    del moving
    (plain, _), init, saved, *_ = held
    final = plain(init)
    return final, _outputs(final, saved)


@_solved.def_fwd
def _solved_fwd(perturbed, moving, held):
    del perturbed, moving
    (_, recorded), init, saved, *_ = held
    final, record = recorded(init)
    counts = [_save_states(final)[i].saveat_ts_index for i in saved]
    return (final, _outputs(final, saved)), (record, final.num_accepted_steps, counts)


@_solved.def_bwd
def _solved_bwd(residuals, grads, perturbed, moving, held):
    record, count, counts = residuals
    functions, start = moving
    differentiated, still = eqx.partition(functions, perturbed[0])
    *_, ts, often = held
    _, (of_y, *of_saved) = grads
    moves = eqx.filter(start, eqx.is_inexact_array)
    of_y = _filled(of_y, moves[0])
    whole = lambda arrays: eqx.combine(arrays, eqx.filter(start, eqx.is_array, inverse=True))

    def body(carry: _Reverse) -> _Reverse:
        k = carry.step
        t0, t1, jump = (x[k] for x in (carry.record.t0, carry.record.t1, carry.record.jump))
        begin, fixed = eqx.partition(whole(carry.state), eqx.is_inexact_array)

        def step(moving, begin):
            made, _ = eqx.combine(moving, still)
            end, dense = made(eqx.combine(begin, fixed), t0, t1, jump)
            parts = eqx.partition((end, dense), eqx.is_inexact_array)
            return parts[0], (parts[1], end)

        (end, dense), pull, (others, ahead) = eqx.filter_vjp(
            step, differentiated, begin, has_aux=True
        )
        del end
        here = k == carry.target

        def transposed():
            of_dense = jax.tree.map(jnp.zeros_like, dense)
            of_functions, saved = carry.of_functions, []
            before = carry.record.t1[jnp.maximum(k - 1, 0)]
            for i, of_rows in enumerate(of_saved):
                if not jax.tree.leaves(of_rows):
                    saved.append(carry.saved[i])
                    continue
                many, of_dense, of_functions = _of_saves(
                    (differentiated, still, i), (t0, t1, dense, others[1]), ts[i],
                    (carry.saved[i], of_dense, of_functions),
                    of_rows, jnp.where(k > 0, before, -jnp.inf),
                )  # fmt: skip
                saved.append(many)
            of_step, of_begin = pull((carry.of_state, of_dense))
            return _sum(of_functions, of_step), of_begin, saved

        def stays():
            return carry.of_functions, carry.of_state, carry.saved

        found = jax.lax.cond(eqxi.unvmap_any(here), transposed, stays) if often else transposed()
        choose = lambda a, b: jnp.where(here, a, b)
        of_functions, of_state, saved = jax.tree.map(choose, found, stays())
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
        )

    last = jnp.asarray(count, record.which.dtype) - 1
    step, state, stride = record.before(last)
    zeros = jax.tree.map(jnp.zeros_like, eqx.filter(differentiated, eqx.is_inexact_array))
    of_state = (of_y, jax.tree.map(jnp.zeros_like, moves[1]))
    begin = _Reverse(last, step, state, stride, record, counts, of_state, zeros)
    final = eqxi.while_loop(
        lambda carry: carry.target >= 0,
        body,
        begin,
        kind="lax",
        buffers=lambda carry: carry.record.buffers(),
    )
    return final.of_functions, final.of_state


def _of_saves(functions, step, ts, carry, of_rows, before):
    """The cotangents of a step's dense output, and of functions, of what was saved of it."""
    differentiated, still, i = functions
    t0, t1, dense, others = step

    def body(carry):
        many, of_dense, of_functions = carry
        t = ts[many - 1]

        def save(moving, dense):
            fn = eqx.combine(moving, still)[1][i]
            return eqx.filter(fn(t, t0, t1, eqx.combine(dense, others)), eqx.is_inexact_array)

        made, pull = eqx.filter_vjp(save, differentiated, dense)
        row = jax.tree.map(lambda x: x[many - 1], of_rows)
        more, of_path = pull(_filled(row, made))
        return many - 1, _sum(of_dense, of_path), _sum(of_functions, more)

    inside = lambda carry: (carry[0] > 0) & (ts[carry[0] - 1] > before)
    return jax.lax.while_loop(inside, body, carry)


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


def _constant(tree: Any) -> Any:
    stop = lambda x: jax.lax.stop_gradient(x) if eqx.is_inexact_array(x) else x
    return jax.tree.map(stop, tree)


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
