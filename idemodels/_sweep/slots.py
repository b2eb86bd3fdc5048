"""Continuous batching: lanes move through slots of a fixed width, in rounds."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .._programs import program
from .rounds import Setup

# Solver steps in a round: between two rounds the host looks which lanes are over.
STEPS = 32
# When this part of the slots is free, new lanes come in; when none is waiting and no more than this
# part is taken, the rest moves to so many fewer slots. Each width is a program.
PART = 4
_NARROWEST = 16


class Mapped:
    """The functions of a lane over all lanes, a share of them on each device.

    No device waits for another within a round.
    """

    def __init__(self, setup: Setup, devices: list[Any]):
        self.devices = tuple(devices)
        everywhere = _everywhere(self.devices)
        move = lambda x: jax.device_put(x, everywhere) if isinstance(x, jax.Array) else x
        self.setup = jax.tree.map(move, setup)  # data may lie on other devices, or in parts

    def __call__(self, name: str, lanes: Any, *static: Any) -> Any:
        """`Setup.name(lane, *static)` for every lane."""
        mapped = _mapped(name, self.devices)
        first, *others = self.devices
        if others:
            return mapped(self.setup, lanes, *static)
        with jax.default_device(first):
            return mapped(self.setup, lanes, *static)


@functools.cache
def _mapped(name: str, devices: tuple[Any, ...]) -> Callable[..., Any]:
    """One object for a function, so that another sweep with the same shapes compiles nothing."""

    @program
    def mapped(setup, lanes, *static):
        arrays, rest = eqx.partition(lanes, eqx.is_array)
        shared, fixed = eqx.partition(setup, eqx.is_array)

        def share(shared, arrays):
            one = lambda lane: getattr(eqx.combine(shared, fixed), name)(lane, *static)
            return jax.vmap(lambda arrays: one(eqx.combine(arrays, rest)))(arrays)

        if len(devices) == 1:
            return share(shared, arrays)
        mesh = _mesh(devices)
        lane, everywhere = PartitionSpec("lanes"), PartitionSpec()
        return jax.shard_map(
            share, mesh=mesh, in_specs=(everywhere, lane), out_specs=lane, check_vma=False
        )(shared, arrays)

    return mapped


def _mesh(devices: tuple[Any, ...]) -> Mesh:
    return Mesh(np.asarray(devices), ("lanes",))


def _everywhere(devices: tuple[Any, ...]) -> Any:
    """Where data lies that every lane needs: on each of the devices, as a whole."""
    return devices[0] if len(devices) == 1 else NamedSharding(_mesh(devices), PartitionSpec())


class Slots:
    """Lanes on their way through one leg.

    - `width`: how many there are at once; `share` times a power of `PART`.
    - `share`: how many come in or leave at a time; a multiple of the number of devices.
    - `begin`: makes the lanes that come in, `share` of them, from their indices.
    - `leg`: `"advance"` or `"advance_stiff"`.
    """

    def __init__(
        self, mapped: Mapped, width: int, share: int, begin: Callable[[np.ndarray], Any], leg: str
    ):
        self.mapped, self.width, self.share = mapped, width, share
        self.begin, self.leg = begin, leg
        self.lanes: Any = None
        self.ids = np.full(width, -1)

    def run(self, waiting: Any) -> Iterator[tuple[np.ndarray, Any]]:
        """The lanes that are over after each round: indices, at most `share`, and as many lanes."""
        while True:
            self._refill(waiting)
            if not np.any(self.ids >= 0):
                return
            self.lanes = self.mapped(self.leg, self.lanes, STEPS)
            over = np.asarray(self.mapped("over", self.lanes))
            if self.leg == "advance":
                over = over | np.asarray(self.lanes.front.stiff)
            at = np.flatnonzero(over & (self.ids >= 0))
            for some in np.split(at, range(self.share, at.size, self.share)):
                if some.size:
                    yield self.ids[some], _take(self.lanes, np.resize(some, self.share))
            self.ids[at] = -1
            self._narrow(waiting)

    def _refill(self, waiting: Any) -> None:
        free = np.flatnonzero(self.ids < 0)
        while len(waiting) and free.size >= min(self.share, self.width):
            ids = waiting.take(self.share)
            new = self.begin(ids)
            if self.lanes is None:  # whatever is in the other slots is nobody's
                self.lanes = _take(new, np.resize(np.arange(self.share), self.width))
            else:
                into = np.full(self.share, self.width)  # what is beyond is dropped
                into[: ids.size] = free[: ids.size]
                self.lanes = _put(self.lanes, new, into)
            self.ids[free[: ids.size]] = ids
            free = free[ids.size :]

    def _narrow(self, waiting: Any) -> None:
        while not len(waiting):
            taken = np.flatnonzero(self.ids >= 0)
            width = self.width // PART
            shared = width % len(self.mapped.devices) == 0
            if not 0 < taken.size <= width or width < _NARROWEST or not shared:
                return
            self.lanes = _take(self.lanes, np.resize(taken, width))
            self.ids = np.concatenate([self.ids[taken], np.full(width - taken.size, -1)])
            self.width = width


class Waiting:
    """The lanes that have not begun, those first that are expected to take longest.

    What a lane takes is expected from the lanes that are over, the nearest one in the design.
    """

    def __init__(self, ids: np.ndarray, where: np.ndarray):
        """`where`: each lane's place in the design, shape `(lanes, dimensions)`, by its index."""
        # the first ones are spread over the whole, so that they tell of the others
        stride = max(1, round(ids.size * 0.381966))
        while math.gcd(stride, max(ids.size, 1)) > 1:
            stride += 1
        self._ids = ids[(np.arange(ids.size) * stride) % max(ids.size, 1)]
        self._where, self._known, self._costs = where, [], []
        self._sorted_with = 0

    def __len__(self) -> int:
        return self._ids.size

    def take(self, count: int) -> np.ndarray:
        """The next ones, no more than `count`."""
        self._sort()
        ids, self._ids = self._ids[:count], self._ids[count:]
        return ids

    def learn(self, ids: np.ndarray, costs: np.ndarray) -> None:
        """What lanes took that are over."""
        if len(self):
            self._known.append(ids)
            self._costs.append(costs)

    def _sort(self) -> None:
        from scipy.spatial import KDTree

        known = sum(ids.size for ids in self._known)
        if known < max(_LEARN, 2 * self._sorted_with):
            return
        self._sorted_with = known
        tree = KDTree(self._where[np.concatenate(self._known)])
        expected = np.concatenate(self._costs)[tree.query(self._where[self._ids])[1]]
        self._ids = self._ids[np.argsort(-expected, kind="stable")]


class Stored:
    """Lanes on the host, between two legs."""

    def __init__(self):
        self._lanes: dict[int, list[Any]] = {}
        self._waiting: list[int] = []
        self._structure: Any = None

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, ids: np.ndarray, lanes: Any, which: np.ndarray) -> None:
        """Keeps those of `lanes` that are flagged."""
        if not which.any():
            return
        leaves, self._structure = jax.tree.flatten(lanes)
        rows = [np.asarray(x)[: ids.size][which] for x in leaves]
        for i, lane in enumerate(ids[which]):
            self._lanes[int(lane)] = [row[i] for row in rows]
            self._waiting.append(int(lane))

    def take(self, count: int) -> np.ndarray:
        """The next ones, no more than `count`."""
        ids, self._waiting = self._waiting[:count], self._waiting[count:]
        return np.asarray(ids)

    def get(self, ids: np.ndarray, width: int) -> Any:
        """Lanes as they were, repeated up to a width; they are forgotten here."""
        found = [self._lanes.pop(int(lane)) for lane in ids]
        rows = [found[i] for i in np.resize(np.arange(len(found)), width)]
        leaves = [np.stack(x) for x in zip(*rows, strict=True)]
        return jax.tree.unflatten(self._structure, leaves)


# So many lanes tell something of the others.
_LEARN = 32


@program
def _put(lanes: Any, new: Any, into: Any) -> Any:
    return jax.tree.map(lambda old, new: old.at[into].set(new, mode="drop"), lanes, new)


@program
def _take(lanes: Any, at: Any) -> Any:
    return jax.tree.map(lambda x: x[at], lanes)
