"""Files, each written whole: to a temporary one beside it, which then takes its name."""

import csv
import io
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .._plot import Pair
from .work import Record


class OutputError(OSError):
    """Results that cannot be written."""


def check_writable(folder: Path) -> None:
    """Raises `OutputError` unless files can be made in `folder`, which is made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as e:
        raise OutputError(f"--out {folder}: cannot be written to: {e.strerror}.") from None


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file, or leaves the one that is there as it was.

    **Raises:** `OutputError`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as e:
        raise OutputError(f"{path}: cannot be written: {e.strerror}.") from None


def write_json(path: Path, content: Any) -> None:
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode())


def write_records(path: Path, records: list[Record]) -> None:
    """A row a case; the hyperparameters first, then what came of them."""
    chosen = [key for record in records for key in record.values]
    write_rows(path, [_flat(record) for record in records], first=chosen)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], first: Iterable[str] = ()) -> None:
    """Rows as CSV, with all keys that one of them has; those of `first` first."""
    columns = dict.fromkeys([*first, *(key for row in rows for key in row)])
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode())


def write_arrays(path: Path, pair: Pair) -> None:
    """Both paths as an .npz, by names such as "equation.theta", "discrete.moments.m"."""
    arrays: dict[str, Any] = {"discrete.error": pair.error}
    for name, side in (("equation", pair.equation), ("discrete", pair.discrete)):
        path_of = side.path
        tree = {
            "ts": path_of.ts,
            "times": path_of.times,
            "theta": path_of.theta,
            "loss": path_of.loss,
            "moments": path_of.moments,
            "gradient": side.gradient,
        }
        for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
            key = jax.tree_util.keystr(keys, simple=True, separator=".")
            arrays[f"{name}.{key}"] = np.asarray(leaf)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_whole(path, content.getvalue())


def _flat(record: Record) -> dict[str, Any]:
    row = asdict(record)
    return {**row.pop("values"), **row}
