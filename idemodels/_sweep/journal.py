"""What was finished since the store was last written, safe from a kill at any moment."""

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

# Before each record: its length and its checksum.
_HEAD = struct.Struct("<QI")


class Journal:
    """A file of records, each the finished lanes of a round; it is appended to, or emptied.

    The bytes of a write that has returned outlive the process, and a record that was cut off is
    known by its length or its checksum.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file = path.open("ab", buffering=0)

    def append(self, ids: np.ndarray, found: dict[str, np.ndarray]) -> None:
        """A record: lanes, and their variables."""
        packed = io.BytesIO()
        # by position, since a variable may have any name
        np.savez(packed, ids, np.asarray(list(found)), *found.values())
        record = packed.getvalue()
        left = memoryview(_HEAD.pack(len(record), zlib.crc32(record)) + record)
        while left:  # a disk that fills up takes a part, and raises at the next one
            left = left[self._file.write(left) :]

    def clear(self) -> None:
        """Forgets what is in the store by now."""
        self._file.truncate(0)

    def close(self) -> None:
        """Removes the file if there is nothing in it."""
        self._file.close()
        if self.path.exists() and not self.path.stat().st_size:
            self.path.unlink()


def records_in(path: Path) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """The whole records of a journal, as they were appended."""
    with path.open("rb") as file:
        size = path.stat().st_size
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            length, checksum = _HEAD.unpack(head)
            if length > size - file.tell():
                return
            record = file.read(length)
            if zlib.crc32(record) != checksum:
                return
            with np.load(io.BytesIO(record)) as arrays:
                ids, names, *found = (arrays[name] for name in arrays.files)
            yield ids, dict(zip(names.tolist(), found, strict=True))
