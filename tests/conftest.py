"""The tests choose the precision, never the library."""

import atexit
import gc
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# XLA's older code generator takes half as long to compile a solve, and less in one part than in
# many; a third of what is left goes into loops that it looks through again and again. Processes
# that tests start, and pytest's workers, inherit the flags: only the first asks whether this jaxlib
# still has them, since an unknown flag ends a process. Where rounding must be that of a user's
# program, a test says so.
FASTER = (
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 "
    "--xla_disable_hlo_passes="
    "simplify-while-loops,while-loop-invariant-code-motion,while-loop-constant-sinking"
)
# Linux gives a process 65,530 memory maps. Of so many a process takes some 4 GB.
MAPS = 12_000


def _faster_compilation() -> None:
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_use_fusion_emitters" in flags:
        return
    tried = os.environ | {"XLA_FLAGS": f"{flags} {FASTER}", "JAX_PLATFORMS": "cpu"}
    probe = [sys.executable, "-c", "import jax; jax.devices()"]
    if subprocess.run(probe, env=tried, capture_output=True, check=False).returncode == 0:
        os.environ["XLA_FLAGS"] = tried["XLA_FLAGS"]


_faster_compilation()

# Most of the suite's time is compilation: it is done quickly rather than well.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# Commands that tests start keep their programs for one another, in a folder of this session.
if "IDEMODELS_CACHE" not in os.environ:
    os.environ["IDEMODELS_CACHE"] = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, os.environ["IDEMODELS_CACHE"], ignore_errors=True)

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Tracing makes containers by the million, and a walk over the living ones finds none to free.
gc.set_threshold(100_000, 20, 20)


@pytest.fixture
def float32():
    """Single precision for one test."""
    with jax.enable_x64(False):
        yield


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """A worker that keeps every compiled program runs out of memory maps."""
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > MAPS:
        jax.clear_caches()
