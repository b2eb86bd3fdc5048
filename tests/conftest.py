"""The precision is the tests' choice, never the library's."""

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def float32():
    """JAX as it is by default."""
    with jax.enable_x64(False):
        yield
