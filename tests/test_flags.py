"""JAX's flags: a solve is the same under each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import idemodels as ide

TS = np.arange(11.0)
MODELS = {
    "adam": ide.Adam(0.1),
    "rmsprop": ide.RMSProp(0.1),
    "causal": ide.RMSProp(0.1, reading="causal"),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_nothing_on_the_way_is_not_a_number(model):
    theta0 = jnp.array([1.0, 2.0, 3.5])  # a size of its own, so that it compiles under the flag
    with jax.debug_nans(True):
        path = ide.solve(model, ide.Quadratic(), theta0, TS)
    plain = ide.solve(model, ide.Quadratic(), theta0, TS)
    np.testing.assert_array_equal(path.theta, plain.theta)


def test_double_precision_may_be_switched_on_between_two_solves():
    with jax.enable_x64(False):
        single = ide.solve(MODELS["adam"], ide.Quadratic(), jnp.float32(1.0), TS)
    double = ide.solve(MODELS["adam"], ide.Quadratic(), 1.0, TS)
    assert (single.theta.dtype, double.theta.dtype) == (jnp.float32, jnp.float64)
    np.testing.assert_allclose(single.theta, double.theta, rtol=1e-4)
