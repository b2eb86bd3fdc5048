"""Many settings at once: what is run, in which order, and what is kept of it."""

import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._checks import check_count
from .._discrete import marks_of
from .._flow import InterpolatingFlow
from .._interrupt import interruptible
from .._method import Markov
from .._model import AbstractModel
from .._parameters import as_parameters, check_model, check_objective
from .._solve import MODELS, check_method, known_breakpoints
from .._target import Base, dtype_of_base
from .dataset import RESERVED, empty
from .design import Design, axes_of
from .identity import identity_of
from .lanes import lane_values, lay_out
from .names import can_begin, variables
from .results import Results
from .rounds import NOT_RUN, Setup
from .slots import PART, Mapped, Slots, Stored, Waiting
from .store import Store, local_path
from .tell import Progress

# Where equation and discrete run are compared if nobody says: so many steps, evenly spread, and as
# many evenly in their logarithm, since large learning rates arrive early.
_COMPARED = 8
# Parameters up to which the end points are kept.
_SMALL = 100
# Slots of the implicit leg at most, whose lanes hold a matrix.
_IMPLICIT = 256
# Seconds between two writes to the store, and how many times what a write takes: until then what is
# finished is in a journal, which costs nothing.
_FLUSH, _SPARSE = 1.0, 10.0
# The part of the memory that lanes may have, and how many copies of them there are for a moment.
_PART_OF_MEMORY, _COPIES = 0.8, 3


def sweep(
    model: AbstractModel | InterpolatingFlow,
    objective: Callable[..., Any],
    theta0: Any,
    steps: int,
    over: Any,
    *,
    args: Any = None,
    metrics: Mapping[str, Callable[..., Any]] | None = None,
    store: Any = None,
    batch: int = 1024,
    method: Any = None,
    discrete: bool = True,
    save_ts: Any = None,
    devices: Any = None,
    progress: bool = True,
) -> Any:
    """Solves the equation, and runs the discrete algorithm, for many settings.

    Lanes go through a fixed number of slots in rounds of a few solver steps, and one that is over
    makes room for one that waits, so that no lane waits for the slowest. A lane that fails is
    marked and touches no other. One program serves any number of lanes.

    !!! Example

        ```python
        found = ide.sweep(
            ide.Adam(0.01), ide.Quadratic(), 1.0, 1000,
            {
                "learning_rate": ide.axis(np.geomspace(1e-4, 1e-1, 16), scale="log"),
                "b2": ide.axis(1 - np.geomspace(1e-1, 1e-4, 16), label="1-b2", scale="log"),
            },
        )
        found.max_error.where(found.status == 0)
        ```

    **Arguments:**

    - `model`, `objective`, `theta0`, `args`: as for [`idemodels.solve`][]; what is swept is
        replaced in them.
    - `steps`: optimizer steps.
    - `over`: a grid, a dict from names to values: a list of numbers, or [`idemodels.axis`][], for a
        hyperparameter by the constructor's name, or any array of the model or the objective by its
        path (`"objective.curvature"`). For `"theta0"` and `"args"` a pytree like what it replaces,
        tuples and lists included, whose arrays have a leading axis. Or [`idemodels.points`][].
    - `metrics`: dict from names to functions of the continuous and the discrete
        [`idemodels.Trajectory`][] (or `None`), both at `save_ts`, that return arrays or numbers.
    - `store`: a path of a Zarr store on this machine, to which finished lanes are written every
        second or so, and to a journal beside it at once. If it is there already, only what it
        lacks is run: after a crash the same call goes on. It must be a store of the same sweep: of
        functions that compute the same, wherever they are written, the same data, settings,
        precision and versions of idemodels, JAX and what it is built on. `batch`, `devices` and
        the place of the store may be others.
    - `batch`: how many lanes are in the making at once.
    - `method`: `None` is `Markov(rtol=1e-5, atol=1e-8, steady_tol=1e-4)`, without `steady_tol` for
        a flow. Only `Markov` goes in rounds, and no flow does.
    - `discrete`: whether the discrete algorithm is run beside the equation.
    - `save_ts`: integers, the steps at which both are compared and their paths kept. `None`
        compares at up to 17, half of them evenly spread and half evenly in their logarithm, and
        keeps no path.
    - `devices`: which of `jax.local_devices()` share the lanes, or how many of them; all if
        `None`. With several processes (`jax.distributed`) each does its share of one `store`.
    - `progress`: whether to tell on stderr how far it is.

    Data may be sharded over devices; each that shares the lanes gets a whole copy.

    **Returns:** an `xarray.Dataset` with a dimension for each axis, or `"point"`, and the variables
    `final_theta` (up to 100 parameters), `final_loss`, `discrete_loss`, `max_error`, `final_error`
    (of the equation against the discrete run), the metrics, `num_steps`, `num_gradients` and
    `status`, whose `flag_meanings` it has as attribute. A leaf of a pytree is a variable by its
    path, `final_theta.layer.w`, with `_` for a slash, and `~2` after the second of a name. With a
    `store` it is that store, opened.

    **Raises:** `ModuleNotFoundError` without the packages of the extra `run`; `ValueError` for an
    argument that is not as above, a batch that is larger than the memory, a store of another sweep
    or one that cannot be written; `KeyboardInterrupt` at Ctrl-C, after the round, with what to do
    to go on.
    """
    _check_extra()
    base = Base(model, objective, theta0, args)
    method = _method_for(model) if method is None else method
    store = None if store is None else local_path(store)
    _check(base, steps, over, metrics, batch, method, store)
    method = method.prepare(np.array([0.0, steps]), None, dtype_of_base(base))
    design, targets = lay_out(over, base)
    devices = _devices(devices)
    setup = _setup(base, targets, steps, metrics, method, discrete, save_ts)
    dtype = dtype_of_base(base)
    values_of = lambda ids: lane_values(design, base, setup.targets, ids, dtype)
    width, _ = _widths(batch, design.size, len(devices))
    one = jax.tree.map(lambda x: x[0], values_of(np.zeros(1, int)))
    paths = _paths_like(setup, one, width, batch)
    like = eqx.filter_eval_shape(setup.measured, *paths)
    ts = np.asarray(setup.ts)[list(setup.rows)]
    if sum(x.size for x in jax.tree.leaves(like["final_theta"])) > _SMALL:
        del like["final_theta"]
    template = empty(design, like, ts, [name for name, _ in setup.metrics])
    kept = None
    if store is not None:
        kept = Store(store, design, template, identity_of(design, setup, paths, one))
    results = Results(design.shape, template if kept is None else kept.template)
    todo = np.arange(design.size) if kept is None else kept.todo
    run = _Run(design, setup, results, kept, devices, values_of)
    try:
        with interruptible() as stop, Progress(todo.size, quiet=not progress) as told:
            engine = run.rounds if setup.in_rounds else run.batches
            begun = engine(todo, batch) if todo.size else iter(())
            run.follow(begun, todo.size, told, stop)
    finally:
        if kept is not None:
            kept.close()
    return results.dataset() if kept is None else kept.dataset()


class _Run:
    """A sweep that runs."""

    def __init__(self, design, setup, results, kept, devices, values_of):
        self.design, self.setup, self.results, self.kept = design, setup, results, kept
        self.mapped, self.values_of = Mapped(setup, devices), values_of
        self._fresh: list[np.ndarray] = []

    def follow(
        self, begun: Iterator[tuple[np.ndarray, Any]], left: int, told: Progress, stop: Any
    ) -> None:
        """Notes what is over, and writes it, until no lane is left."""
        written, pause = time.monotonic(), _FLUSH
        try:
            for ids, outputs in begun:
                if ids.size:
                    told.done(self._note(ids, variables(outputs)))
                    left -= ids.size
                if stop.is_set() and left:
                    raise KeyboardInterrupt
                begin = time.monotonic()
                if begin - written > pause:
                    self._write()
                    written = time.monotonic()
                    pause = max(_FLUSH, _SPARSE * (written - begin))
        except KeyboardInterrupt:
            self._write()
            raise KeyboardInterrupt(self._advice()) from None
        self._write()

    def rounds(self, todo: np.ndarray, batch: int) -> Iterator[tuple[np.ndarray, Any]]:
        """The lanes that are over after each round of solver steps, and their outputs."""
        mapped, count = self.mapped, len(self.mapped.devices)
        width, share = _widths(batch, todo.size, count)
        waiting, later = Waiting(todo, _places(self.design)), Stored()

        def begin(ids):
            return mapped("begin", self.values_of(np.resize(ids, share)))

        for ids, lanes in Slots(mapped, width, share, begin, "advance").run(waiting):
            stiff = np.asarray(lanes.front.stiff)[: ids.size]
            later.put(ids, lanes, stiff)
            done, outputs = ids[~stiff], None
            if done.size:
                outputs = _chosen(mapped("outputs", lanes), ids.size, ~stiff)
                waiting.learn(done, outputs["num_steps"])
            yield done, outputs
        if len(later):
            width, narrow = _widths(min(batch, _IMPLICIT), len(later), count)
            back = lambda ids: mapped("stiffen", later.get(ids, narrow))
            for ids, lanes in Slots(mapped, width, narrow, back, "advance_stiff").run(later):
                everyone = np.ones(ids.size, bool)
                yield ids, _chosen(mapped("outputs", lanes), ids.size, everyone)

    def batches(self, todo: np.ndarray, batch: int) -> Iterator[tuple[np.ndarray, Any]]:
        """The same for a method that does not go in rounds."""
        count = len(self.mapped.devices)
        width = -(-min(batch, todo.size) // count) * count
        for ids in np.split(todo, range(width, todo.size, width)):
            outputs = self.mapped("whole", self.values_of(np.resize(ids, width)))
            yield ids, _chosen(outputs, ids.size, np.ones(ids.size, bool))

    def _note(self, ids: np.ndarray, found: dict[str, Any]) -> np.ndarray:
        status = self.results.add(ids, found)
        if self.kept is not None:
            self.kept.note(ids, {name: found[name] for name in self.results.arrays})
        self._fresh.append(ids)
        return status

    def _write(self) -> None:
        if self.kept is not None and self._fresh:
            self.kept.write(self.results, np.concatenate(self._fresh))
            self._fresh = []

    def _advice(self) -> str:
        over = int(np.sum(self.results.arrays["status"] != NOT_RUN))
        told = f"Interrupted: {over} of {self.design.size} lanes are finished"
        if self.kept is None:
            return f"{told}, and lost. Pass `store=` a path, and the same call goes on from there."
        return f"{told}, and kept in {self.kept.path}. The same call goes on from there."


def _method_for(model: Any) -> Markov:
    steady_tol = None if isinstance(model, InterpolatingFlow) else 1e-4
    return Markov(rtol=1e-5, atol=1e-8, steady_tol=steady_tol)


def _check_extra() -> None:
    for package in ("xarray", "zarr", "rich", "filelock", "psutil"):
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(
                f"`idemodels.sweep` needs {package}: pip install 'idemodels[run]'", name=package
            )


def _check(base, steps, over, metrics, batch, method, store) -> None:
    if base.args is None and "args" in axes_of(over):
        raise ValueError(
            "Argument `args` must be given where the axis 'args' is swept, as one lane has it, but "
            "is None. Pass a row of the axis, such as `jax.tree.map(lambda x: x[0], axis)`."
        )
    check_model(base.model, MODELS, "a model such as `idemodels.Adam(0.1)`, or a flow")
    theta, rest = as_parameters(base.theta0)
    check_objective(base.objective, eqx.combine(theta, rest), base.args)
    check_method(method, base.model)
    check_count(steps, "steps")
    check_count(batch, "batch")
    for name, f in (metrics or {}).items():
        if not callable(f) or name in RESERVED:
            wanted = f"a function, by a name other than {', '.join(RESERVED)}"
            raise ValueError(f"Argument `metrics` must have {wanted}, but has {name!r}: {f!r}.")
        if not can_begin(name):
            raise ValueError(
                "Argument `metrics` must have names that variables can have, strings that are not "
                f"empty and do not begin with '.' or '__', but has {name!r}."
            )
    if store is None and jax.process_count() > 1:
        raise ValueError(
            f"Argument `store` must be a path where {jax.process_count()} processes share a sweep, "
            "but is None: each of them has only its own results."
        )


def _setup(base, targets, steps, metrics, method, discrete, save_ts) -> Setup:
    if save_ts is None and not discrete and not metrics:
        chosen = np.asarray([0, steps])  # nobody looks at the others
    elif save_ts is None:
        spread = np.linspace(0, steps, _COMPARED + 1), np.geomspace(1, steps, _COMPARED + 1)
        chosen = np.unique(np.round(np.concatenate(spread)).astype(int))
    else:
        chosen = marks_of(steps, save_ts, "save_ts")
    marks = np.unique(np.concatenate([[0], chosen, [steps]]).astype(int))
    ts = jnp.asarray(marks, dtype_of_base(base))
    of_rate = any(target.of_rate(base) for target in targets.values())
    return Setup(
        base,
        targets,
        method,
        ts,
        tuple(int(k) for k in marks),
        tuple((metrics or {}).items()),
        bool(discrete),
        tuple(int(k) for k in np.searchsorted(marks, chosen)),
        save_ts is not None,
        None if of_rate else known_breakpoints(base.model, ts, method),
    )


def _paths_like(setup: Setup, one: Any, width: int, batch: int) -> Any:
    """What the trajectories of a lane are like, whose values are `one`; nothing is computed.

    **Raises:** `ValueError` if the lanes of a batch do not fit into the memory.
    """
    if not setup.in_rounds:
        return eqx.filter_eval_shape(setup.whole_paths, one)
    lane = eqx.filter_eval_shape(setup.begin, one)
    leaves = [x for x in jax.tree.leaves(lane) if hasattr(x, "dtype")]
    size = _COPIES * sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in leaves)
    room = _PART_OF_MEMORY * _memory()
    if size * width > room:
        raise ValueError(
            f"Argument `batch` must be at most {int(room // size)} here, where a lane takes about "
            f"{size / 2**20:.3g} MiB of {room / 2**30:.3g} GiB, but is {batch}."
        )
    return eqx.filter_eval_shape(setup.paths, lane)


def _memory() -> float:
    """Bytes that are free on a device, or on this machine."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    import psutil

    return float(psutil.virtual_memory().available)


def _devices(devices: Any) -> list[Any]:
    local = jax.local_devices()
    if devices is None:
        return local
    if isinstance(devices, int) and not isinstance(devices, bool):
        if not 1 <= devices <= len(local):
            raise ValueError(
                f"Argument `devices` must be 1 to {len(local)}, as many as there are, but is "
                f"{devices}. On a CPU `XLA_FLAGS=--xla_force_host_platform_device_count=8` makes 8."
            )
        return local[:devices]
    devices = [devices] if isinstance(devices, bool) else list(devices)
    own = lambda device: getattr(device, "process_index", None) == jax.process_index()
    if not devices or not all(own(device) for device in devices):
        raise ValueError(
            f"Argument `devices` must be some of `jax.local_devices()`, but is {devices}."
        )
    return devices


def _widths(batch: int, lanes: int, devices: int) -> tuple[int, int]:
    """How many slots there are, and how many lanes come in at a time."""
    share = max(1, -(-min(batch, lanes) // (PART * devices))) * devices
    return PART * share, share


def _places(design: Design) -> np.ndarray:
    rows = design.rows(np.arange(design.size))
    places = [rows[dim] / max(n - 1, 1) for dim, n in zip(design.dims, design.shape, strict=True)]
    return np.stack(places, axis=1)


def _chosen(outputs: Any, count: int, which: np.ndarray) -> Any:
    """On the host, of the first lanes those that are flagged."""
    return jax.tree.map(lambda x: np.asarray(x)[:count][which], outputs)
