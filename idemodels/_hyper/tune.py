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

from .._discrete import run_discrete
from .._method import AbstractMethod
from .._model import AbstractModel
from .._objective import DigitsMLP
from .._results import RESULTS, is_okay
from .._solve import solve
from .._target import Base, Target, dtype_of_base, target_of

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
    run = _Training(base, {n: target_of(base, n, "wrt") for n in names}, parts, steps, method)
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

    base: Base
    targets: dict[str, Target]
    parts: Parts
    steps: int = eqx.field(static=True)
    method: AbstractMethod

    def start(self) -> dict[str, Any]:
        """The coordinates of the model as it is."""
        dtype, found = dtype_of_base(self.base), {}
        for name, target in self.targets.items():
            decay = target.decay(self.base)
            own = target.of(self.base) if decay is None else decay.complement / decay.value
            found[name] = jnp.log(jnp.asarray(own, dtype))
        return found

    def value(self, name: str, u: Any) -> Any:
        """The hyperparameter at its coordinate."""
        decay = self.targets[name].decay(self.base)
        return jnp.exp(u) if decay is None else jax.nn.sigmoid(-u)

    def at(self, point: dict[str, Any]) -> Base:
        """The base with other hyperparameters."""
        base = self.base
        for name, u in point.items():
            target = self.targets[name]
            decay = target.decay(base)
            if decay is None:
                by = self.value(name, u) - target.of(base)
            else:  # from 1 - b, which is exact where b is close to 1
                by = decay.complement - jax.nn.sigmoid(u)
            base = target.moved(base, by)
        return base


@eqx.filter_jit
def _through_the_equation(run: _Training, point: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The loss after the training, its slopes, and the result of the solve."""
    ts = np.array([0.0, run.steps])

    def loss(point):
        base = run.at(point)
        options = {"method": run.method, "adjoint": dfx.ForwardMode(), "throw": False}
        path = solve(base.model, base.objective, base.theta0, ts, **options)
        return run.parts.tune(_last(path)), path.result

    zeros = jax.tree.map(jnp.zeros_like, point)
    units = {name: zeros | {name: jnp.ones_like(u)} for name, u in point.items()}
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *units.values())
    slope = lambda unit: jax.jvp(loss, (point,), (unit,), has_aux=True)
    value, slopes, result = jax.vmap(slope, out_axes=(None, 0, None))(stacked)
    return value, dict(zip(units, slopes, strict=True)), result


@eqx.filter_jit
def _by_the_discrete_run(run: _Training, point: dict[str, Any]) -> dict[str, Any]:
    base = run.at(point)
    path = run_discrete(base.model, base.objective, base.theta0, run.steps, ts=[run.steps])
    theta, test = _last(path), run.parts.test
    right = jnp.argmax(test.logits(theta, test.x), axis=1) == jnp.asarray(test.y)
    accuracy = jnp.mean(right.astype(dtype_of_base(base)))
    return {"discrete": run.parts.tune(theta), "test": test(theta), "accuracy": accuracy}


def _last(path: Any) -> Any:
    return jax.tree.map(lambda x: x[-1] if eqx.is_inexact_array(x) else x, path.theta)
