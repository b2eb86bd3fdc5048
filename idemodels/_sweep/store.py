"""A sweep on disk: a Zarr store, written through xarray, region by region."""

import errno
import glob
import json
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .design import Design
from .journal import Journal, records_in
from .results import Results
from .rounds import NOT_RUN

# Lanes in a chunk, about: what is rewritten when some of them are over.
_CHUNK = 4096
_SETUP = "idemodels_sweep"
# What says that a folder is a store of Zarr's format 2, which is never one of ours.
_FORMAT_2 = (".zgroup", ".zarray", ".zmetadata")


class StoreError(ValueError):
    """A store that cannot be used; the message says what to do."""


def local_path(store: Any) -> Path:
    """Where a store is, on this machine.

    **Raises:** `StoreError` for what is no path, or one of another machine.
    """
    words = os.fspath(store) if isinstance(store, str | os.PathLike) else None
    if not isinstance(words, str) or not words:
        raise StoreError(
            f"Argument `store` must be a path, such as 'sweep.zarr', but is {store!r}."
        )
    if re.match(r"\w[\w+.-]+:/", words):  # a Path has one slash left of two
        raise StoreError(
            f"Argument `store` must be a path on this machine, but is {words!r}. Write it to a "
            "local path, and copy that when the sweep is finished."
        )
    try:
        return Path(words).expanduser().absolute()
    except RuntimeError as e:
        raise StoreError(
            f"Argument `store` must be a path, but is {words!r}, and there is no such home: {e}"
        ) from None


class Store:
    """A data set on disk that grows, and the right to write to it.

    Of a lane, `status` is written last: one that is not marked as run has to be run again, whatever
    else is there.
    """

    def __init__(self, path: Path, design: Design, template: Any, setup: dict[str, str]):
        """Makes the store, or takes up the one that is there.

        **Raises:** `StoreError` if it was made by another sweep, or cannot be written.
        """
        self.path, self.design, self.template = path, design, template
        self.chunks = chunks_of(design.shape)
        self._setup = setup
        self._lock = self._locked() if jax.process_index() == 0 else None
        self._journal: Journal | None = None
        try:
            if jax.process_index() == 0:
                self._make()
                self._recover()
            _wait_for_all("the store of a sweep is there")
            self.todo = self._missing()
            path = self._beside(f"journal.{jax.process_index()}")
            self._journal = self._try(lambda: Journal(path))
        except BaseException:
            self.close()
            raise

    def note(self, lanes: np.ndarray, found: dict[str, np.ndarray]) -> None:
        """Keeps what came of lanes, until it is written."""
        journal = self._journal
        assert journal is not None
        self._try(lambda: journal.append(lanes, found))

    def write(self, results: Results, lanes: np.ndarray) -> None:
        """The chunks that have these lanes, from the results of all."""
        import xarray as xr

        where = np.stack(np.unravel_index(lanes, self.design.shape), axis=1) // self.chunks
        for chunk in np.unique(where, axis=0):
            sizes = zip(self.design.dims, chunk, self.chunks, self.design.shape, strict=True)
            region = {
                dim: slice(int(i * size), int(min((i + 1) * size, n))) for dim, i, size, n in sizes
            }
            cut = tuple(region.values())
            data = {
                name: (self.template[name].dims, results.grid(name)[cut]) for name in results.arrays
            }
            status = {"status": data.pop("status")}
            for part in (data, status):
                write = lambda part=part, region=region: xr.Dataset(part).to_zarr(
                    self.path, region=region, consolidated=False
                )
                self._try(write)
        if self._journal is not None:
            self._journal.clear()

    def dataset(self) -> Any:
        """The data set as it is on disk, read when it is asked for."""
        import xarray as xr

        _wait_for_all("a sweep is finished")
        return xr.open_zarr(self.path, chunks=None, consolidated=False)

    def _make(self) -> None:
        if (self.path / "zarr.json").exists():
            return
        if any((self.path / name).exists() for name in _FORMAT_2):
            raise StoreError(_another(self.path))
        if self.path.exists() and not (self.path.is_dir() and not any(self.path.iterdir())):
            raise StoreError(
                f"Argument `store` must be a new path or the store of a sweep, but {self.path} is "
                "something else. Choose another path."
            )
        for journal in self._journals():  # of a store that somebody removed
            self._try(journal.unlink)
        made = self.template.assign_attrs({_SETUP: json.dumps(self._setup)})
        sizes = dict(zip(self.design.dims, self.chunks, strict=True))
        encoding = {
            name: {"chunks": tuple(sizes.get(str(d), made.sizes[d]) for d in v.dims)}
            for name, v in made.data_vars.items()
        }
        half = self._beside("half")
        try:
            with warnings.catch_warnings():
                # that other readers may not know what spares xarray's a warning
                warnings.filterwarnings("ignore", "Consolidated metadata", UserWarning)
                self._try(lambda: made.to_zarr(half, mode="w", encoding=encoding))
            self._try(lambda: half.rename(self.path))
        finally:
            shutil.rmtree(half, ignore_errors=True)

    def _recover(self) -> None:
        """Writes what a process that was killed had not written yet."""
        journals = self._journals()
        if not journals:
            return
        self._take_over()
        results, lanes = Results(self.design.shape, self.template), []
        for journal in journals:
            for ids, found in records_in(journal):
                results.add(ids, found)
                lanes.append(ids)
        if lanes:
            self.write(results, np.concatenate(lanes))
        for journal in journals:
            self._try(journal.unlink)

    def _take_over(self) -> np.ndarray:
        """The status of all lanes on disk; what is there is this sweep's own from now on."""
        import xarray as xr

        with xr.open_zarr(self.path, chunks=None, consolidated=False) as there:
            _check_same(self.path, there.attrs.get(_SETUP), self._setup)
            status = np.asarray(there["status"])
            if np.any(status != NOT_RUN):
                self.template = there.load()
        return status

    def _missing(self) -> np.ndarray:
        """The lanes that this process has to run."""
        status = self._take_over()
        todo = np.flatnonzero(status.ravel() == NOT_RUN)
        if jax.process_count() == 1:
            return todo
        parts = -(-np.asarray(self.design.shape) // self.chunks)
        where = (
            np.stack(np.unravel_index(todo, self.design.shape)) // np.asarray(self.chunks)[:, None]
        )
        chunk = np.ravel_multi_index(tuple(where), tuple(parts))
        return todo[chunk % jax.process_count() == jax.process_index()]

    def close(self) -> None:
        """Lets others write."""
        if self._journal is not None:
            self._journal.close()
        if self._lock is not None:
            self._lock.release()

    def _locked(self) -> Any:
        import filelock

        path = self._beside("lock")
        self._try(lambda: path.parent.mkdir(parents=True, exist_ok=True))
        lock = filelock.FileLock(path, timeout=0)

        def is_free():
            try:
                lock.acquire()
            except filelock.Timeout:  # an OSError, but none of the disk
                return False
            return True

        if not self._try(is_free):
            raise StoreError(
                "Argument `store` must be a store that no other process writes to, but "
                f"{self.path} is open in one. Wait until it ends, or choose another path."
            )
        return lock

    def _journals(self) -> list[Path]:
        """Those of all processes."""
        name = glob.escape(self._beside("journal").name)
        return sorted(self.path.parent.glob(f"{name}.*"))

    def _beside(self, name: str) -> Path:
        return self.path.with_name(f".{self.path.name}.{name}")

    def _try(self, act: Any) -> Any:
        try:
            return act()
        except OSError as e:
            full = e.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None))
            advice = "Make room" if full else "Choose another path"
            raise StoreError(
                f"Argument `store` must be a path that can be written to, but {self.path} cannot: "
                f"{os.strerror(e.errno) if e.errno else e}. {advice}, and call again: what was "
                "finished before is kept."
            ) from e


def chunks_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The last dimensions whole, as far as a chunk goes."""
    left, chunks = _CHUNK, []
    for n in reversed(shape):
        chunks.append(max(1, min(n, left)))
        left //= chunks[-1]
    return tuple(reversed(chunks))


def _check_same(path: Path, there: Any, setup: dict[str, str]) -> None:
    """Raises unless the store was made by the same sweep."""
    if there is None:
        raise StoreError(_another(path))
    old = json.loads(there)
    for key in {**setup, **old}:
        if old.get(key) != setup.get(key):
            was, now = (_short(words.get(key, "none")) for words in (old, setup))
            raise StoreError(
                f"Argument `store` must be a store of this sweep, but {path} was made with another "
                f"{key}: {was} there, {now} here. Choose another path, or go on with what it was "
                "made with."
            )


def _another(path: Path) -> str:
    return (
        f"Argument `store` must be a new path or the store of a sweep, but {path} is another Zarr "
        "store. Choose another path."
    )


def _wait_for_all(what: str) -> None:
    """Until every process is here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


def _short(text: Any) -> str:
    text = str(text)
    return text if len(text) <= 200 else f"{text[:200]}..."
