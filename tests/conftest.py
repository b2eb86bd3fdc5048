"""The tests choose the precision, never the library."""

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def float32():
    """Single precision for one test."""
    with jax.enable_x64(False):
        yield
