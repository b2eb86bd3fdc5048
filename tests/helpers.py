"""Lists that several test files share."""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import references as ref

import idemodels as ide

# with a state space, and without
KERNELS = [
    ide.Exponential(0.1),
    ide.Exponential(0.001),
    ide.Exponential(1.0),
    ide.Constant(),
    ide.SecondOrder(0.9),
    ide.SecondOrder(0.5),
    ide.SecondOrder(0.2),
    ide.SumOfExponentials([0.5, -0.1, 0.01], [2.0, 0.3, 0.0]),
]
OTHER_KERNELS = [
    ide.PowerLaw(0.5),
    ide.PowerLaw(1.0),
    ide.FunctionKernel(lambda s: 1.0 / (1.0 + s) ** 2),
    ide.FunctionKernel(lambda s: s**-0.7 * jnp.exp(-s), exponent=0.3),
]

# every model, reading and rate, with a learning rate of 0.1
MODELS = {
    "adam": ide.Adam(0.1),
    "adam-matched": ide.Adam(0.1, rate="matched"),
    "adam-b1-0": ide.Adam(0.1, b1=0.0),
    "rmsprop-closure": ide.RMSProp(0.1),
    "rmsprop-closure-matched": ide.RMSProp(0.1, rate="matched"),
    "rmsprop-causal": ide.RMSProp(0.1, reading="causal"),
    "rmsprop-causal-matched": ide.RMSProp(0.1, reading="causal", rate="matched"),
    "adagrad-closure": ide.AdaGrad(0.1),
    "adagrad-causal": ide.AdaGrad(0.1, reading="causal"),
}


@dataclass(frozen=True)
class Case:
    """An objective of the library, its start, and the same by hand."""

    objective: Any
    by_hand: ref.Loss

    @property
    def theta0(self):
        """In the objective's own shape: a scalar where it has one parameter."""
        start = self.by_hand.theta0
        return jnp.asarray(start if start.size > 1 else start[0])


_CURVATURE, _MINIMUM = np.geomspace(1.0, 100.0, 5), 1.0 + np.arange(5) / 5.0
_LOGISTIC = ide.LogisticRegression()

OBJECTIVES = {
    "quadratic": Case(ide.Quadratic(), ref.quadratic()),
    "double-well": Case(ide.DoubleWell(), ref.double_well()),
    "rosenbrock": Case(ide.Rosenbrock(), ref.rosenbrock()),
    "quadratic-5": Case(
        ide.Quadratic(_CURVATURE, _MINIMUM), ref.quadratic(_CURVATURE, _MINIMUM, np.zeros(5))
    ),
    "log-cosh": Case(ide.LogCosh(), ref.log_cosh()),
    "logistic": Case(_LOGISTIC, ref.logistic(np.asarray(_LOGISTIC.x), np.asarray(_LOGISTIC.y))),
}


class Counted(eqx.Module):
    """A parabola that counts how often its gradient is really called."""

    calls: list = eqx.field(static=True)

    def __call__(self, theta):
        @jax.custom_vjp
        def loss(theta):
            return jnp.sum((theta - 4.0) ** 2)

        def backward(theta, cotangent):
            jax.debug.callback(lambda: self.calls.append(None))
            return (cotangent * 2 * (theta - 4.0),)

        loss.defvjp(lambda theta: (loss(theta), theta), backward)
        return loss(theta)


class Bowl(eqx.Module):
    """A parabola in a rotated frame, on a dict with a leaf that does not move."""

    size: int

    @property
    def theta0(self):
        return {"w": jnp.full((self.size // 2, 2), 0.5), "name": "held"}

    def curvatures(self):
        return 100.0 / (1.0 + np.arange(self.size)) ** 1.5

    def __call__(self, theta):
        x = theta["w"].reshape(-1)
        u = jnp.sin(1.0 + jnp.arange(self.size, dtype=x.dtype))
        u = u / jnp.linalg.norm(u)
        y = x - 2.0 * u * jnp.vdot(u, x)  # Householder
        return 0.5 * jnp.sum(jnp.asarray(self.curvatures()) * y * y)


class Bowls(eqx.Module):
    """A parabola for each parameter."""

    def __call__(self, theta):
        return 0.5 * jnp.sum((theta - 4.0) ** 2)
