"""Hyperparameters found by descending through the equation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._method import AbstractMethod
from .._model import AbstractModel
from .._objective import DigitsMLP
from .._programs import program
from .._results import RESULTS, is_okay
from .._run import Run
from .._target import Base, dtype_of_base, target_of

# The order of the images, which is that of the writers in the source.
_SEED = 0


class Parts(eqx.Module):
    """The images apart: to train on, to tune on, and those that nothing has seen."""

    train: DigitsMLP
    tune: DigitsMLP
    test: DigitsMLP


@dataclass(frozen=True)
class Tuned:
    """What each update found, shape `(U + 1,)`, the start first.

    - `values`: by hyperparameter.
    - `slopes`: the derivatives of `equation` in their coordinates, the logarithm of a learning rate
        and of (1 - b)/b; by hyperparameter.
    - `equation`: the loss on the images to tune on, at the end of the equation's path.
    - `discrete`, `test`, `accuracy`: of the discrete run with the same hyperparameters, the loss on
        those images, and loss and accuracy on those that nothing has seen.
    - `failure`: why it ended early, or "".
    """

    values: dict[str, np.ndarray]
    slopes: dict[str, np.ndarray]
    equation: np.ndarray
    discrete: np.ndarray
    test: np.ndarray
    accuracy: np.ndarray
    failure: str


def split(objective: DigitsMLP, held_out: float) -> Parts:
    """Twice the fraction `held_out` of the images is kept from the training."""
    order = np.random.default_rng(_SEED).permutation(len(objective.y))
    count = round(held_out * order.size)
    of = lambda rows: eqx.tree_at(
        lambda o: (o.x, o.y), objective, (objective.x[rows], np.asarray(objective.y)[rows])
    )
    return Parts(of(order[2 * count :]), of(order[:count]), of(order[count : 2 * count]))


def tune(
    model: AbstractModel,
    parts: Parts,
    theta0: Any,
    steps: int,
    names: Sequence[str],
    updates: int,
    rate: float,
    method: AbstractMethod,
    tell: Callable[[str], None] = lambda words: None,
) -> Tuned:
    """Descends in the hyperparameters `names`, by Adam, along forward-mode derivatives.

    They move in coordinates in which they stay where they belong: the logarithm of what must be
    positive, and of (1 - b)/b for a decay.

    **Arguments:**

    - `steps`: optimizer steps of each training.
    - `rate`: Adam's learning rate for those coordinates.
    - `tell`: is told of each update.
    """
    base = Base(model, parts.train, theta0, None)
    targets = {name: target_of(base, name, "names") for name in names}
    run = _Training(Run(base, targets, (0, steps), method), parts)
    at: Any = run.start()
    adam = optax.adam(rate)
    state: Any = adam.init(at)
    rows: list[dict[str, Any]] = []
    failure = ""
    for i in range(updates + 1):
        loss, slopes, result = _through_the_equation(run, at)
        if not bool(is_okay(result)):
            failure = f"The equation was not solved at update {i}. {RESULTS[result]}"
            break
        values = {name: run.value(name, at[name]) for name in names}
        discrete = _by_the_discrete_run(run, at)
        rows.append(jax.device_get({"values": values, "slopes": slopes, "loss": loss} | discrete))
        words = ", ".join(f"{name} = {float(x):.6g}" for name, x in values.items())
        tell(f"update {i}: loss {float(loss):.4g}, {words}")
        with jax.numpy_dtype_promotion("standard"):  # optax mixes its integer count with floats
            moved, state = adam.update(slopes, state)
        at = optax.apply_updates(at, moved)
    column = lambda key: np.array([row[key] for row in rows])
    by_name = lambda key: {name: np.array([row[key][name] for row in rows]) for name in names}
    return Tuned(
        by_name("values"),
        by_name("slopes"),
        column("loss"),
        column("discrete"),
        column("test"),
        column("accuracy"),
        failure,
    )


class _Training(eqx.Module):
    """What is trained, as a function of the coordinates of the hyperparameters."""

    run: Run
    parts: Parts

    def start(self) -> dict[str, Any]:
        """The coordinates of the model as it is."""
        base, found = self.run.base, {}
        for name, target in self.run.targets.items():
            decay = target.decay(base)
            own = target.of(base) if decay is None else decay.complement / decay.value
            found[name] = jnp.log(jnp.asarray(own, dtype_of_base(base)))
        return found

    def value(self, name: str, u: Any) -> Any:
        """The hyperparameter at its coordinate."""
        decay = self.run.targets[name].decay(self.run.base)
        return jnp.exp(u) if decay is None else jax.nn.sigmoid(-u)

    def end(self, point: dict[str, Any], continuous: bool) -> tuple[Any, Any]:
        """The parameters after the training at other coordinates, and the result."""
        moved = {}
        for name, u in point.items():
            target = self.run.targets[name]
            decay = target.decay(self.run.base)
            if decay is None:
                moved[name] = self.value(name, u) - target.of(self.run.base)
            else:  # from 1 - b, which is exact where b is close to 1
                moved[name] = decay.complement - jax.nn.sigmoid(u)
        path = self.run.path(moved, continuous, dfx.ForwardMode())
        last = lambda x: x[-1] if eqx.is_inexact_array(x) else x
        return jax.tree.map(last, path.theta), path.result


@program
def _through_the_equation(run: _Training, point: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The loss after the training, its slopes, and the result of the solve."""

    def loss(point):
        theta, result = run.end(point, True)
        value = run.parts.tune(theta)
        return value, (value, result)

    slopes, (value, result) = jax.jacfwd(loss, has_aux=True)(point)
    return value, slopes, result


@program
def _by_the_discrete_run(run: _Training, point: dict[str, Any]) -> dict[str, Any]:
    theta, _ = run.end(point, False)
    test = run.parts.test
    right = jnp.argmax(test.logits(theta, test.x), axis=1) == jnp.asarray(test.y)
    accuracy = jnp.mean(right.astype(dtype_of_base(run.run.base)))
    return {"discrete": run.parts.tune(theta), "test": test(theta), "accuracy": accuracy}
