"""The tests choose the precision, never the library."""

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Most of the suite's time is compilation: it is done quickly rather than well.
jax.config.update("jax_disable_most_optimizations", True)


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
