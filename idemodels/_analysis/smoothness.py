"""Whether a flow can be trusted to follow an optimizer, from a discrete run."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._checks import check_count
from .._equation import Augmented
from .._flow import SETTLED, FlowEquation, InterpolatingFlow, distrust, looks, roughness_of
from .._parameters import as_parameters, check_objective
from .._programs import program
from .._solve import Held
from .._types import Path

# At how many states a run is looked at.
_LOOKS = 40


class Smoothness(eqx.Module):
    r"""What a discrete run says of flows of its optimizer.

    - `ts`: the steps that were looked at.
    - `difference`: $\max |\Delta^5 \theta| / 5$ there, `(T,)`.
    - `step`: $\max |\Delta \theta|$ there, `(T,)`.
    - `spread`: an estimate of the largest $|\mu - 1|$ over the multipliers of the step, `(T,)`: by
        16 power iterations, so that it may be somewhat low, and high where the step is far from
        normal.
    - `roughness`: the largest `difference` over the largest `step`: below 1e-3 for smooth
        optimizers, .3 and more for those that take signs.
    - `statement`: why a flow cannot be trusted, in words; `None` where nothing speaks against it.
        Not every optimizer without a flow is found so: that the solver does not finish, or rejects
        many steps, is another sign.
    """

    ts: Path
    difference: Path
    step: Path
    spread: Path
    roughness: float
    statement: str | None = eqx.field(static=True)

    @property
    def smooth(self) -> bool:
        """Whether nothing speaks against a flow."""
        return self.statement is None


def smoothness(
    tx: Any,
    objective: Any,
    theta0: Any,
    steps: int,
    *,
    stride: int = 1,
    args: PyTree[Any] = None,
) -> Smoothness:
    """Runs an optimizer, and looks whether its steps are those of a smooth flow.

    **Arguments:**

    - `tx`: an optax transformation, or an [`idemodels.InterpolatingFlow`][].
    - `objective`, `theta0`, `args`: as for [`idemodels.solve`][].
    - `steps`: how far it is run; more than 20, where the memories of most are full.
    - `stride`: that of the flow.

    **Returns:** a [`idemodels.analysis.Smoothness`][], of some 40 states from step 20 on.

    **Raises:** `ValueError` for an argument that is not as above, and for an optimizer that cannot
    flow.
    """
    check_count(steps, "steps")
    if steps <= SETTLED:
        raise ValueError(f"Argument `steps` must be more than {SETTLED}, but is {steps}.")
    flow = tx if isinstance(tx, InterpolatingFlow) else InterpolatingFlow(tx, stride=stride)
    theta, rest = as_parameters(theta0)
    check_objective(objective, eqx.combine(theta, rest), args)
    equation = FlowEquation.of(flow, Held(objective, rest), args, theta)
    marks = np.unique(np.round(np.linspace(SETTLED, steps, _LOOKS)).astype(int))
    states = _states(equation, theta, jnp.asarray(np.diff(marks, prepend=0)))
    difference, step, spread = looks(equation, states)
    roughness = roughness_of(difference, step)
    statement = distrust(roughness, float(jnp.max(spread)), flow.stride, equation.layout.rough)
    ts = jnp.asarray(marks, step.dtype)
    return Smoothness(ts, difference, step, spread, roughness, statement)


@program
def _states(equation: FlowEquation, theta: PyTree[Array], gaps: Array) -> Augmented:
    """The states after so many steps more each time, with a leading axis."""

    def segment(y, gap):
        y = equation.steps(y, gap)
        return y, y

    return jax.lax.scan(segment, equation.start(theta), gaps)[1]
