"""One file a solver, which imports the solver inside its functions.

Each has

- `PACKAGES`: whose versions are recorded,
- `SETTINGS`: for each problem that it can express, the settings that are run,
- `REFUSED`: for each other problem, why not,
- `prepare(problem, setting)`: a function without arguments that solves, and returns a `Solved`.

They run in a process of their own and under any Python that has the solver: nothing outside of the
functions may need more than NumPy.
"""

import dataclasses

import numpy as np


class Unavailable(Exception):
    """A solver is not there, and why."""


@dataclasses.dataclass
class Solved:
    """A solution, and what it took.

    - `theta`: at the problem's `ts`.
    - `gradients`, `sweeps`: how many, where the solver tells.
    - `result`: `"successful"`, or what the solver says instead.
    """

    theta: np.ndarray
    gradients: int | None = None
    sweeps: int | None = None
    result: str = "successful"
