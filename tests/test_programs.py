"""How programs are traced and compiled."""

import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from idemodels._programs import program, traced_once

MAPS = """
import jax, numpy as np, idemodels as ide
jax.config.update("jax_enable_x64", True)
count = lambda: sum(1 for _ in open("/proc/self/maps"))
jax.numpy.zeros(3).sum().block_until_ready()
before = count()
jax.block_until_ready(ide.solve(ide.{model}(0.1), ide.Quadratic(), 1.0, np.arange(101.0)).theta)
print(count() - before)
"""


@program
def squared(x, y=1.0):
    return y * x**2


def test_a_program_is_the_same_whatever_is_around_it():
    assert squared(3.0) == 9.0
    assert squared(3.0, y=2.0) == 18.0
    assert jax.jit(squared)(3.0) == 9.0
    assert jax.grad(squared)(3.0) == 6.0
    assert jax.jit(jax.grad(squared))(3.0) == 6.0
    assert jax.hessian(squared)(3.0) == 2.0
    np.testing.assert_array_equal(jax.vmap(squared)(jnp.arange(3.0)), [0.0, 1.0, 4.0])
    assert program(squared)(3.0) == 9.0
    with jax.disable_jit():
        assert squared(3.0) == 9.0


def test_a_program_may_close_over_what_is_traced():
    """Its arguments do not tell that it is."""

    def inside(a):
        return program(lambda x: a * x)(2.0)

    assert jax.grad(inside)(3.0) == 2.0
    assert jax.jit(inside)(3.0) == 6.0
    assert jax.jit(lambda: squared(3.0))() == 9.0


@pytest.mark.parametrize("size", [10, 100_000])
def test_small_and_large_arrays_have_the_same_program(size):
    x = jnp.linspace(0.0, 1.0, size)
    np.testing.assert_allclose(squared(x), np.square(x), rtol=1e-15)


def test_a_method_is_traced_once_for_the_same_shapes():
    traced = []

    class Counting(eqx.Module):
        @traced_once
        def step(self, x, jump):
            traced.append(x)
            return jnp.where(jump, 0.0, x)

    def body(x):
        return Counting().step(Counting().step(x, False), x > 5.0)

    assert jax.jit(body)(jnp.ones(())) == 1.0
    assert jax.jit(jax.grad(body))(jnp.ones(())) == 1.0
    assert len(traced) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the system has no list of maps")
@pytest.mark.parametrize("model", ["Adam", "RMSProp"])
def test_a_solve_keeps_a_few_hundred_memory_maps(model):
    """Of 65,530: a process that solves many different equations lives."""
    code = MAPS.replace("{model}", model)
    kept = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert kept < 400
