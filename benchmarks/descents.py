"""The optimizers' paths whose work is measured against their precision."""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Descent:
    """A model's equation on a loss, on [0, `steps`].

    - `model`: its kind, `"adam"`, `"rmsprop"` or `"adagrad"`, the last two in the reading
        `"closure"`; and its hyperparameters.
    - `loss`: `"quadratic"`, `"quadratic5"`, `"rosenbrock"` or `"digits"`.
    - `points`: how many intervals of equal length lie between the steps where paths are compared.
    """

    title: str
    model: str
    hyperparameters: tuple[float, ...]
    loss: str
    steps: int
    points: int = 200

    @property
    def ts(self) -> np.ndarray:
        """Where paths are compared, two points within the first step among them."""
        return np.concatenate([[0.0, 0.03, 0.3], np.linspace(0.0, self.steps, self.points + 1)[1:]])

    @property
    def config(self) -> dict[str, Any]:
        """What a record says of the problem."""
        config = dataclasses.asdict(self)
        del config["title"]
        return config

    @property
    def parameters(self) -> int:
        """How many parameters move."""
        return {"quadratic": 1, "quadratic5": 5, "rosenbrock": 2, "digits": 2410}[self.loss]

    @property
    def states(self) -> int:
        """The dimension of the augmented equation."""
        return self.parameters * (3 if self.model == "adam" else 2)

    def build(self) -> tuple[Any, Any, Any]:
        """**Returns:** model, objective and start, as `idemodels.solve` takes them."""
        import jax.numpy as jnp

        import idemodels as ide

        models = {
            "adam": ide.Adam,
            "rmsprop": lambda *given: ide.RMSProp(*given, reading="closure"),
            "adagrad": lambda *given: ide.AdaGrad(*given, reading="closure"),
        }
        if self.loss == "digits":
            objective: Any = ide.DigitsMLP()
            theta0 = objective.theta0
        elif self.loss == "rosenbrock":
            objective, theta0 = ide.Rosenbrock(), jnp.array([-1.2, 1.0])
        elif self.loss == "quadratic5":
            objective, theta0 = ide.Quadratic(CURVATURES, MINIMUM), jnp.zeros(5)
        else:
            objective, theta0 = ide.Quadratic(2.0, 4.0), jnp.asarray(1.0)
        return models[self.model](*self.hyperparameters), objective, theta0


CURVATURES, MINIMUM = np.geomspace(1.0, 100.0, 5), 1.0 + np.arange(5) / 5

_ADAM = (0.9, 0.999)

DESCENTS = {
    "paper_coarse": Descent(
        "Adam on (theta - 4)^2, alpha = 0.1", "adam", (0.1, *_ADAM), "quadratic", 100, points=100
    ),
    "paper_fine": Descent(
        "Adam on (theta - 4)^2, alpha = 0.01", "adam", (0.01, *_ADAM), "quadratic", 1000
    ),
    "quadratic_long": Descent(
        "Adam on (theta - 4)^2, alpha = 0.001", "adam", (0.001, *_ADAM), "quadratic", 10_000
    ),
    "quadratic5": Descent(
        "Adam, quadratic in 5 dimensions, alpha = 0.01",
        "adam",
        (0.01, *_ADAM),
        "quadratic5",
        2000,
    ),
    "adagrad": Descent(
        "AdaGrad's closure on (theta - 4)^2, alpha = 0.01", "adagrad", (0.01,), "quadratic", 200_000
    ),
    "digits": Descent(
        "Adam on the digits network, alpha = 0.001",
        "adam",
        (0.001, *_ADAM),
        "digits",
        2000,
        points=100,
    ),
    "digits_long": Descent(
        "Adam on the digits network, longer", "adam", (0.001, *_ADAM), "digits", 5000, points=100
    ),
    "rosenbrock": Descent(
        "Adam on Rosenbrock's function, alpha = 0.001",
        "adam",
        (0.001, *_ADAM),
        "rosenbrock",
        20_000,
    ),
    "tail_adam": Descent(
        "Adam (0.9, 0.95), quadratic, past the end",
        "adam",
        (0.01, 0.9, 0.95),
        "quadratic",
        10_000,
    ),
    "tail_rmsprop": Descent(
        "RMSProp's closure, quadratic, past the end",
        "rmsprop",
        (0.01, 0.9),
        "quadratic",
        5000,
    ),
    "tail_rosenbrock": Descent(
        "RMSProp's closure on Rosenbrock's function",
        "rmsprop",
        (0.01, 0.9),
        "rosenbrock",
        5000,
    ),
}
# Those that the paper's own numerics run.
PUBLISHED = ("paper_coarse", "paper_fine")
# Those of which a solve takes seconds.
SLOW = ("digits", "digits_long", "rosenbrock", "tail_adam", "tail_rmsprop", "tail_rosenbrock")
# Those that go on after the path has converged, where the equation is stiff.
TAILS = ("tail_adam", "tail_rmsprop", "tail_rosenbrock")
QUICK = ("paper_coarse", "paper_fine")


def flat(theta: Any) -> np.ndarray:
    """**Returns:** a path's parameters as rows, shape `(T, d)`."""
    import equinox as eqx
    import jax

    leaves = [np.asarray(x) for x in jax.tree.leaves(eqx.filter(theta, eqx.is_inexact_array))]
    return np.concatenate([x.reshape(x.shape[0], -1) for x in leaves], axis=1)
