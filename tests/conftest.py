"""The tests choose the precision, never the library."""

from pathlib import Path

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Most of the suite's time is compilation: it is done quickly rather than well, and once for both
# workers and the next run. A program that has changed has another key.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def float32():
    """Single precision for one test."""
    with jax.enable_x64(False):
        yield
