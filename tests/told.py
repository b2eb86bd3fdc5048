"""A method that is told where the learning rate breaks, whatever was found."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from idemodels._method.base import AbstractMethod


class Told(AbstractMethod):
    method: AbstractMethod
    breaks: tuple[float, ...] = eqx.field(static=True)

    def solves(self, model):
        return self.method.solves(model)

    def prepare(self, ts, state0, dtype):
        return Told(self.method.prepare(ts, state0, dtype), self.breaks)

    def run(self, problem, adjoint):
        breaks = jnp.asarray([*self.breaks, np.inf], problem.ts.dtype)
        return self.method.run(dataclasses.replace(problem, breakpoints=breaks), adjoint)
