"""Where results come from."""

import hashlib
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from .. import __version__

if TYPE_CHECKING:
    from .run import Finished

_PACKAGES = ("jax", "jaxlib", "diffrax", "equinox", "optax", "optimistix", "lineax", "numpy")


def provenance(finished: "Finished") -> dict[str, Any]:
    """All that one needs to get the same numbers again, for JSON."""
    config = finished.config
    return {
        **where_from(config),
        "cases": len(config.cases),
        "finished": len(finished.records),
        "solved": sum(record.okay for record in finished.records),
        "seconds": round(finished.seconds, 3),
    }


def where_from(config: Any) -> dict[str, Any]:
    """The config, the versions and the machine of a run that has just ended."""
    device = jax.devices()[0]
    return {
        "config": {
            "name": config.name,
            "file": str(config.path),
            "sha256": hashlib.sha256(config.text).hexdigest(),
            "text": config.text.decode(),
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"idemodels": __version__, "python": platform.python_version()}
        | {name: version(name) for name in _PACKAGES},
        "git": commit(),
        "device": {"platform": device.platform, "kind": device.device_kind},
        "precision": config.precision,
        "platform": platform.platform(),
    }


def commit() -> dict[str, Any] | None:
    """The commit that the package is run from, and whether its files differ from it.

    `None` without git, or where the package is not part of a repository, such as when installed in
    an environment that lies inside one.
    """
    package = Path(__file__).parents[1]
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    dirty = _git(package, "status", "--porcelain")
    return {"commit": _git(package, "rev-parse", "HEAD"), "dirty": bool(dirty)}


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
