"""A flow as a config has it: an optimizer of optax by its name, and its numbers."""

import functools
import inspect
from typing import Any

import optax

from .._checks import near
from .._flow import InterpolatingFlow


def interpolating_flow(
    learning_rate: Any,
    optimizer: str = "adam",
    b1: Any = None,
    b2: Any = None,
    decay: Any = None,
    momentum: Any = None,
    eps: Any = None,
    weight_decay: Any = None,
    order: Any = 2,
    exact_steps: Any = 20,
    stride: Any = 1,
    kink: Any = None,
) -> InterpolatingFlow:
    """The flow of `optax.OPTIMIZER`; its numbers are optax's own where they are left out.

    All of them are hyperparameters of the flow, so that they can be swept, and that one compilation
    does for all.

    **Raises:** `ValueError` for an unknown optimizer, or a number that it has not.
    """
    given = {
        "learning_rate": learning_rate,
        "b1": b1,
        "b2": b2,
        "decay": decay,
        "momentum": momentum,
        "eps": eps,
        "weight_decay": weight_decay,
    }
    hyperparams = {name: x for name, x in given.items() if x is not None}
    tx = _transformation(optimizer, tuple(hyperparams))
    kinks = () if kink is None else (kink,)
    return InterpolatingFlow(tx, order, exact_steps, stride, kinks, hyperparams=hyperparams)


@functools.cache
def _transformation(optimizer: str, names: tuple[str, ...]) -> optax.GradientTransformation:
    """Made once, with numbers in the place of those that the flow puts into its state."""
    factory: Any = getattr(optax, optimizer, None)
    if not callable(factory) or "learning_rate" not in inspect.signature(factory).parameters:
        known = [
            name
            for name, f in vars(optax).items()
            if inspect.isfunction(f) and "learning_rate" in inspect.signature(f).parameters
        ]
        raise ValueError(
            "Argument `optimizer` must be the name of one in optax, such as 'adam', but is "
            f"{optimizer!r}.{near(optimizer, known)}"
        )
    known = list(inspect.signature(factory).parameters)
    for name in names:
        if name not in known:
            raise ValueError(
                f"Argument `{name}` must be left out for {optimizer!r}, which has no such number."
            )
    made: Any = factory
    return optax.inject_hyperparams(made)(**dict.fromkeys(names, 0.5))
