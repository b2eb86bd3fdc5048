"""What a record says of where it was made."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """**Returns:** of each package its version; None where it is not installed."""
    return {name: _version(name) for name in packages}


def device() -> dict[str, Any]:
    """Of JAX where it was used; NumPy is on the CPU, in double."""
    jax = sys.modules.get("jax")
    if jax is None:
        return {"device": "cpu", "x64": True}
    return {"device": jax.devices()[0].device_kind, "x64": bool(jax.config.jax_enable_x64)}


def source() -> dict[str, Any]:
    """The commit, and whether the files differ from it; nothing outside of a repository."""
    changed = _git("status", "--porcelain", "--", "idemodels", "benchmarks/*.py")
    return {"commit": _git("rev-parse", "HEAD"), "dirty": bool(changed)}


def machine() -> dict[str, Any]:
    """System, processor and cores."""
    return {"machine": f"{platform.system()} {platform.machine()}", "cores": os.cpu_count()}


def page(packages: Iterable[str]) -> dict[str, Any]:
    """**Returns:** the head of a record made in this process, without any record yet."""
    head = {**source(), **machine(), **device()}
    return head | {"versions": versions(packages), "records": []}


def first_line(e: Exception) -> str:
    """What an exception says, in a line."""
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    return lines[0][:200] if lines else ""


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*command: str) -> str:
    # the pathspecs count from the repository's root
    options = {"cwd": _HERE.parent, "capture_output": True, "text": True, "check": False}
    return subprocess.run(["git", *command], **options).stdout.strip()
