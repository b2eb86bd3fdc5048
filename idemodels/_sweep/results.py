"""What came of the lanes, on the host."""

from typing import Any

import numpy as np


class Results:
    """The variables of all lanes, by lane index.

    - `template`: the data set in which nothing was run.
    """

    def __init__(self, shape: tuple[int, ...], template: Any):
        self.shape, self.template = shape, template
        self.arrays: dict[str, np.ndarray] = {}
        size = int(np.prod(shape))
        for name, variable in template.data_vars.items():
            filled = np.array(variable.values)  # a copy: the template holds one number
            self.arrays[str(name)] = filled.reshape(size, *filled.shape[len(shape) :])

    def add(self, ids: np.ndarray, found: dict[str, Any]) -> np.ndarray:
        """Notes lanes that are over, whatever of them has a place; returns their status."""
        for name in self.arrays:
            self.arrays[name][ids] = found[name]
        return self.arrays["status"][ids]

    def grid(self, name: str) -> np.ndarray:
        """A variable in the shape of the design."""
        x = self.arrays[name]
        return x.reshape(*self.shape, *x.shape[1:])

    def dataset(self) -> Any:
        """All of it."""
        return self.template.copy(data={name: self.grid(name) for name in self.arrays})
