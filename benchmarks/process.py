"""A case in a process of its own, under a limit of time."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).parents[1]


def run(command: Sequence[str], limit: float, *, x64: bool = True) -> tuple[list[str], str]:
    """**Returns:** the lines that a command prints, and `""` or why it ended before it was done."""
    environment = os.environ | {"JAX_ENABLE_X64": "1" if x64 else "0"}
    options = {"cwd": _ROOT, "env": environment, "capture_output": True, "check": False}
    try:
        done = subprocess.run(command, timeout=limit, **options)
    except subprocess.TimeoutExpired as e:
        # the last line may be half of one
        lines = (e.stdout or b"").decode().split("\n")[:-1]
        return lines, f"stopped after {limit:g} s"
    lines = done.stdout.decode().splitlines()
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        return lines, f"exit {done.returncode}: {said[-1].strip()[:200]}"
    return lines, ""
