"""The continuous model, of any order, of any optax optimizer: what the user asks for."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._checks import as_hyperparameter, check_count
from .._hashed import Hashed


class InterpolatingFlow(Hashed):
    r"""The flow of order p through the iterates of an optax optimizer. (E9), (E11)

    $$z' = \frac1q \sum_{j=1}^p \frac{(-1)^{j+1}}{j} \Delta^j z$$

    with z the parameters beside the optimizer's whole state, and $\Delta^j$ the forward differences
    of $z, \Phi^q(z), \Phi^{2q}(z), \dots$ for the optimizer's step $\Phi$: the truncated logarithm
    of the step. It is for smooth interpolation, sensitivities and analysis, and takes p q gradients
    for each evaluation: in general more of them than the discrete run.

    !!! Example

        ```python
        flow = ide.InterpolatingFlow(optax.adam(0.01), order=3)
        path = ide.solve(flow, ide.Quadratic(), 1.0, np.arange(101.0))
        run = ide.run_discrete(flow, ide.Quadratic(), 1.0, 100)
        ```

    **Arguments:**

    - `tx`: any optax transformation whose state is of floating arrays and counters, and whose
        update is a smooth function of state, gradient and parameters.
    - `order`: p, from 1 to 8.
    - `exact_steps`: how many steps of the optimizer stand at the start, where its memories fill and
        no path is smooth. Between them the path is a polynomial through them.
    - `stride`: q. The iterates 0, q, 2q, ... lie on the flow, and those between are reached by the
        optimizer's step: with 2 the path may swing from step to step, as at the edge of stability.
    - `kinks`: steps at which the optimizer is not smooth, such as the end of a warm-up: they are
        crossed by p q steps of the optimizer. Those of its schedules, which depend on its counters
        alone, are found without being told, unless they depend on what is traced.
    - `hyperparams`: by name, values in the place of those that `optax.inject_hyperparams` holds in
        the state of `tx`: leaves to be swept and differentiated, with one compilation for all.
    - `predict_error`: whether `solve` solves order p + 1 beside it, for `trajectory.model_error`.
    - `check`: whether `solve` looks, where its arguments are known, whether the flow can be
        trusted, and warns if not. That takes gradients, `stats["num_check_gradients"]`.

    **Raises:** `ValueError` for an argument that is not as above.
    """

    tx: Any
    order: int = eqx.field(static=True)
    exact_steps: int = eqx.field(static=True)
    stride: int = eqx.field(static=True)
    kinks: tuple[int, ...] = eqx.field(static=True)
    hyperparams: dict[str, Any]
    predict_error: bool = eqx.field(static=True)
    check: bool = eqx.field(static=True)

    def __init__(
        self,
        tx: Any,
        order: int = 2,
        exact_steps: int = 20,
        stride: int = 1,
        kinks: Any = (),
        *,
        hyperparams: dict[str, Any] | None = None,
        predict_error: bool = False,
        check: bool = True,
    ):
        _check_transformation(tx)
        check_count(order, "order")
        check_count(stride, "stride")
        if order > _HIGHEST:
            raise ValueError(
                f"Argument `order` must be at most {_HIGHEST}, beyond which the differences are "
                f"rounding, but is {order}."
            )
        if predict_error and order == _HIGHEST:
            raise ValueError(
                f"Argument `predict_error` must be False for the highest order, {_HIGHEST}."
            )
        if not _is_count(exact_steps):
            raise ValueError(
                f"Argument `exact_steps` must be an integer, 0 or more, but is {exact_steps!r}."
            )
        kinks = tuple(kinks)
        if not all(map(_is_count, kinks)) or list(kinks) != sorted(set(kinks)):
            raise ValueError(
                f"Argument `kinks` must be increasing integers, 0 or more, but is {kinks!r}."
            )
        self.tx = tx
        self.order, self.stride, self.exact_steps = int(order), int(stride), int(exact_steps)
        self.kinks = tuple(int(k) for k in kinks)
        given = {} if hyperparams is None else hyperparams
        self.hyperparams = {name: as_hyperparameter(x, name) for name, x in given.items()}
        self.predict_error, self.check = bool(predict_error), bool(check)

    def changed(self, **changes: Any) -> "InterpolatingFlow":
        """The flow with other arguments."""
        given = {name: value for name, value in vars(self).items() if name != "tx"}
        return InterpolatingFlow(self.tx, **(given | changes))

    def optax(self) -> optax.GradientTransformation:
        """The discrete twin: `tx` itself, with `hyperparams` in its state."""
        if not self.hyperparams:
            return self.tx

        def init(params):
            return _with_hyperparams(self.tx.init(params), self.hyperparams)

        return optax.GradientTransformationExtraArgs(
            init, optax.with_extra_args_support(self.tx).update
        )

    @property
    def gradients(self) -> int:
        """How many gradients an evaluation of the right-hand side takes."""
        return self.order * self.stride

    @property
    def nonnegative(self) -> tuple[str, ...]:
        """No memory is reported as negative: those that must not be are clamped."""
        return ()

    def memories(self) -> dict[str, Any]:
        """None with a kernel: what it remembers is the optimizer's state."""
        return {}

    @property
    def singular_start(self) -> bool:
        """Whether the velocity is infinite at the start: never."""
        return False

    def valid(self) -> Any:
        """Every value of the constructor's is known, so that it was checked there."""
        return jnp.ones((), bool)

    def parts(self, kinks: Sequence[int]) -> list[tuple[int, int]]:
        """Where stretches of exact steps begin and end, past the first `exact_steps`.

        Each ends at one of the `kinks`, which increase. Between them is flow.
        """
        at, found = self.exact_steps, []
        for kink in kinks:
            if kink > at:
                # the last whole stride from which the differences do not reach past the kink
                whole = at + self.stride * max(0, (kink - self.gradients - at) // self.stride)
                found.append((at if whole - at < _SHORT * self.gradients else whole, kink))
                at = kink
        return found


# A flow over less than so many times the steps that its right-hand side takes would take more
# gradients than those steps.
_SHORT = 4
_HIGHEST = 8


def _check_transformation(tx: Any) -> None:
    if isinstance(tx, optax.MultiSteps):
        raise ValueError(
            "Argument `tx` must be one whose every update is a step, but is MultiSteps, which "
            "moves the parameters at some of its updates only. Pass the transformation inside it."
        )
    if not isinstance(tx, optax.GradientTransformation):
        raise ValueError(
            "Argument `tx` must be an optax transformation such as `optax.adam(0.1)`, but is "
            f"{tx!r}. A model's is `model.optax()`."
        )


def _is_count(x: Any) -> bool:
    return isinstance(x, int | np.integer) and not isinstance(x, bool) and bool(x >= 0)


def _with_hyperparams(opt_state: Any, values: dict[str, Any]) -> Any:
    """The state with other values of its injected hyperparameters."""
    found: set[str] = set()

    def put(path, x):
        keys = [getattr(key, "name", getattr(key, "key", None)) for key in path]
        if len(keys) > 1 and keys[-2] == "hyperparams" and keys[-1] in values:
            found.add(keys[-1])
            return jnp.asarray(values[keys[-1]], jnp.result_type(x))
        return x

    changed = jax.tree_util.tree_map_with_path(put, opt_state)
    missing = [name for name in values if name not in found]
    if missing:
        raise ValueError(
            f"Argument `hyperparams` must have names that `optax.inject_hyperparams` holds in the "
            f"state of `tx`, but has {missing[0]!r}."
        )
    return changed
