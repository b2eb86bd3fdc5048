"""What a GPU finds is what the CPU finds; skipped where there is none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import idemodels as ide


def gpus():
    try:
        return jax.devices("gpu")
    except RuntimeError:
        return []


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not gpus(), reason="JAX finds no GPU here: install the extra `cuda`"),
]
TS = np.linspace(0.0, 300.0, 31)
MODELS = [
    ide.Adam(0.01),
    ide.RMSProp(0.01, reading="causal"),
    ide.AdaGrad(0.1),
    ide.SecondOrderAdam(0.01, 0.99, 0.999),
]


def on(device, act):
    with jax.default_device(device):
        return jax.tree.map(np.asarray, act())


def both(act):
    return on(gpus()[0], act), on(jax.devices("cpu")[0], act)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_a_path_is_the_same(model):
    method = ide.Markov(rtol=1e-8, atol=1e-10)
    solve = lambda: ide.solve(model, ide.Rosenbrock(), jnp.array([-1.0, 1.0]), TS, method=method)
    gpu, cpu = both(lambda: solve().theta)
    np.testing.assert_allclose(gpu, cpu, rtol=1e-6, atol=1e-8)


def test_a_gradient_through_the_solver_is_the_same():
    objective = ide.DigitsMLP()

    def last(rate):
        path = ide.solve(ide.Adam(rate), objective, objective.theta0, np.array([0.0, 50.0]))
        return path.loss[-1]

    gpu, cpu = both(lambda: jax.value_and_grad(last)(jnp.asarray(1e-3)))
    np.testing.assert_allclose(gpu, cpu, rtol=1e-5)


def test_a_sweep_is_the_same():
    over = {"learning_rate": np.geomspace(1e-3, 1e-1, 33), "b2": [0.9, 0.99, 0.999]}
    options = {"batch": 32, "progress": False}
    sweep = lambda device: ide.sweep(
        ide.Adam(0.01), ide.Quadratic(), 1.0, 300, over, devices=[device], **options
    )
    gpu, cpu = sweep(gpus()[0]), sweep(jax.devices("cpu")[0])
    assert (gpu.status <= 1).all()
    np.testing.assert_allclose(gpu.discrete_loss, cpu.discrete_loss, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(gpu.final_loss, cpu.final_loss, rtol=1e-8, atol=1e-12)
