"""The inputs that went wrong once, in both precisions: see `corpus/README.md`."""

import gc
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

FILES = sorted((Path(__file__).parent / "corpus").glob("*.py"))


def check(file, F):
    """Runs a file's input; an `AssertionError` tells how far off it is."""
    specification = importlib.util.spec_from_file_location(file.stem, file)
    case = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(case)
    right, found = np.asarray(case.RIGHT), np.asarray(case.found(F), float)
    assert found.shape == right.shape
    np.testing.assert_allclose(found, right, rtol=0, atol=case.WITHIN, err_msg=file.stem)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_in_double_precision(file):
    check(file, jnp.float64)


@pytest.mark.slow
def test_in_single_precision():
    """JAX's own default, which a process has or has not: in one of its own."""
    environment = os.environ | {"JAX_ENABLE_X64": "0"}
    command = [sys.executable, str(Path(__file__))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


if __name__ == "__main__":
    gc.set_threshold(100_000, 20, 20)  # as in conftest.py
    assert not jax.config.jax_enable_x64
    failures = []
    for file in FILES:
        try:
            check(file, jnp.float32)
        except Exception as error:
            failures.append(f"{file.stem}: {type(error).__name__}: {error}")
    sys.exit("\n\n".join(failures) or None)
