"""A model among the arrays that diffrax keeps from step to step."""

import equinox as eqx

from .._model import AbstractModel


class Split(eqx.Module):
    """A model whose leaves are arrays only; what else it has is a part of its type."""

    arrays: AbstractModel
    rest: AbstractModel = eqx.field(static=True)

    @classmethod
    def of(cls, model: AbstractModel) -> "Split":
        return cls(*eqx.partition(model, eqx.is_array))

    @property
    def whole(self) -> AbstractModel:
        return eqx.combine(self.arrays, self.rest)
