"""The tests choose the precision, never the library."""

import atexit
import gc
import os
import shutil
import subprocess
import sys
import tempfile

# XLA's older code generator takes half as long to compile a solve. Processes that tests start, and
# pytest's workers, inherit it: only the first asks whether this jaxlib still has it, since an
# unknown flag ends a process. Where rounding must be that of a user's program, a test says so.
FASTER = "--xla_cpu_use_fusion_emitters=false"


def _faster_compilation() -> None:
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_use_fusion_emitters" in flags:
        return
    tried = os.environ | {"XLA_FLAGS": f"{flags} {FASTER}", "JAX_PLATFORMS": "cpu"}
    probe = [sys.executable, "-c", "import jax; jax.devices()"]
    if subprocess.run(probe, env=tried, capture_output=True, check=False).returncode == 0:
        os.environ["XLA_FLAGS"] = tried["XLA_FLAGS"]


_faster_compilation()

# Commands that tests start keep their programs for one another, in a folder of this session.
if "IDEMODELS_CACHE" not in os.environ:
    os.environ["IDEMODELS_CACHE"] = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, os.environ["IDEMODELS_CACHE"], ignore_errors=True)

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Most of the suite's time is compilation: it is done quickly rather than well.
jax.config.update("jax_disable_most_optimizations", True)

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
    jax.clear_caches()
