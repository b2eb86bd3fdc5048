"""Compiled programs, kept from one command to the next."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import filelock  # noqa: F401  JAX asks for it where a cache has a size
import jax

_BYTES = 2**30


def cache_folder() -> Path:
    """`IDEMODELS_CACHE`, else a folder of the user's cache directory."""
    given = os.environ.get("IDEMODELS_CACHE")
    if given:
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(base) if base else Path.home() / ".cache") / "idemodels"


@contextlib.contextmanager
def kept_programs(wanted: bool) -> Iterator[None]:
    """JAX's persistent compilation cache, inside; one that is set already stays.

    A folder that cannot be written is told, and nothing is kept.
    """
    if not wanted or jax.config.jax_compilation_cache_dir:  # pyright: ignore
        yield
        return
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError) as e:  # RuntimeError: there is no home
        print(
            f"idemodels: warning: compiled programs cannot be kept: {e}. Let IDEMODELS_CACHE be a "
            "folder that can be written, or pass --no-cache.",
            file=sys.stderr,
        )
        yield
        return
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_compilation_cache_max_size": _BYTES,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    _set(settings)
    try:
        yield
    finally:
        _set(before)


def _set(settings: dict[str, object]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
