"""A model of the user's own: any memories, any direction."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from .._kernel import AbstractMarkovKernel, Memory
from .base import AbstractModel, as_finite, as_learning_rate, valid_common


class MemoryModel(AbstractModel):
    r"""An optimizer of your own: memories of the gradient by name, and a direction. (E1)

    $$\theta' = -\alpha(s)\,(\mathrm{direction}(s, \theta, g, \mathrm{moments}) + w\,\theta)$$

    !!! Example

        Adam, with the kernels that match the discrete algorithm:

        ```python
        def direction(s, theta, g, moments):
            scale = lambda m, v: m / (jnp.sqrt(v) + 1e-8)
            return jax.tree.map(scale, moments["m"], moments["v"])

        memories = {
            "m": ide.Memory(ide.Exponential(-np.log(0.9)), lambda g: g, debias=True),
            "v": ide.Memory(ide.Exponential(-np.log(0.999)), lambda g: g**2, debias=True),
        }
        model = ide.MemoryModel(memories, direction, 1e-3)
        ```

    **Arguments:**

    - `memories`: dict from names to [`idemodels.Memory`][]. A memory of squares under a kernel that
        changes its sign may fall below zero, which nothing here looks for.
    - `direction`: `direction(s, theta, g, moments)`, a pytree like `theta`, whose leaves are its
        floating arrays (`None` elsewhere); `moments` is a dict of such pytrees. It is called at
        s = 0 too, where a memory is empty: 0, or with `debias` the feature itself. A gradient
        through it must be finite there: $\sqrt v$ at v = 0 has none.
    - `learning_rate`: a positive scalar per step, or a schedule.
    - `transform`: `transform(g)`, done to the whole gradient before memories and direction see it:
        clipping, for one.
    - `singular_start`: whether the velocity is infinite at s = 0, as where an empty memory divides;
        `Markov` then starts in ln s.
    - `l2`: the papers' $\lambda$: $(\lambda/2)\,\theta$ is added to the gradient.
    - `weight_decay`: decoupled, as in `optax.adamw`.

    **Raises:** `ValueError` for an argument that is not as above.
    """

    learning_rate: Any
    l2: Any
    weight_decay: Any
    _memories: dict[str, Memory]
    _direction: Callable[..., Any]
    _transform: Callable[..., Any] | None
    _singular_start: bool = eqx.field(static=True)

    def __init__(
        self,
        memories: Mapping[str, Memory],
        direction: Callable[..., Any],
        learning_rate: Any,
        *,
        transform: Callable[..., Any] | None = None,
        singular_start: bool = False,
        l2: Any = 0.0,
        weight_decay: Any = 0.0,
    ):
        if not isinstance(memories, Mapping):
            raise ValueError(
                "Argument `memories` must be a dict from names to `idemodels.Memory`, but is "
                f"{memories!r}."
            )
        for name, memory in memories.items():
            if not isinstance(name, str) or not isinstance(memory, Memory):
                raise ValueError(
                    "Argument `memories` must be a dict from names to `idemodels.Memory`, but has "
                    f"{name!r}: {memory!r}."
                )
        if not callable(direction):
            raise ValueError(
                "Argument `direction` must be callable, `direction(s, theta, g, moments)`, but is "
                f"{direction!r}."
            )
        if transform is not None and not callable(transform):
            raise ValueError(
                f"Argument `transform` must be callable, `transform(g)`, but is {transform!r}."
            )
        self._memories = dict(memories)
        self._direction = direction
        self._transform = transform
        self._singular_start = bool(singular_start)
        self.learning_rate = as_learning_rate(learning_rate)
        self.l2 = as_finite(l2, "l2")
        self.weight_decay = as_finite(weight_decay, "weight_decay")

    @property
    def singular_start(self) -> bool:
        """As told to the constructor."""
        return self._singular_start

    @property
    def pointwise(self) -> bool:
        """False: nothing is known of the user's direction."""
        return False

    def memories(self):
        """**Returns:** those that were given."""
        return self._memories

    def transform(self, g):
        """**Returns:** `transform(g)`, or `g`."""
        return g if self._transform is None else self._transform(g)

    def fraction(self, s, theta, g, moments):
        """**Returns:** the direction over one."""
        direction = self._direction(s, theta, g, moments)
        if jax.tree.structure(direction) != jax.tree.structure(theta):
            raise ValueError(
                "Argument `direction` must return a pytree like `theta`, "
                f"{jax.tree.structure(theta)}, but returns {jax.tree.structure(direction)}."
            )
        direction = jax.tree.map(lambda d, x: jnp.asarray(d, x.dtype), direction, theta)
        return direction, jax.tree.map(jnp.ones_like, direction)

    def scale_by(self):
        """**Returns:** the frozen-gradient exact step, as a transformation.

        Over a step the gradient is held and the memories are propagated exactly; the direction is
        read at the step's end. With the kernels above that is `optax.scale_by_adam`.

        **Raises:** `ValueError` if a kernel has no finite state space.
        """
        for name, memory in self._memories.items():
            if not isinstance(memory.kernel, AbstractMarkovKernel):
                raise ValueError(
                    "Argument `memories` must have kernels with finitely many states for "
                    f"`.optax()`, but {name!r} has {type(memory.kernel).__name__}, whose memory is "
                    "the whole past. Replace it by `idemodels.fit_exponentials(kernel, horizon, "
                    "tol)`."
                )
        return scale_by_memories(self)

    def valid(self):
        flags = [memory.kernel.valid() for memory in self._memories.values()]
        return jnp.all(jnp.stack([jnp.asarray(valid_common(self)), *flags]))


class ScaleByMemoriesState(NamedTuple):
    """The steps made, and the states of each memory, leaves `(n, *shape)`."""

    count: Any
    memory: Any


def scale_by_memories(model: MemoryModel) -> optax.GradientTransformation:
    """See `MemoryModel.scale_by`."""

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        memories = model.memories().items()
        memory = {name: m.markov.init(m.of(zeros)) for name, m in memories}
        return ScaleByMemoriesState(jnp.zeros((), jnp.int32), memory)

    def update(updates, state, params=None):
        if params is None:
            raise ValueError(
                "Argument `params` must be given to `update`: the direction is a function of them. "
                "Write `tx.update(g, state, params)`."
            )
        dtype = jnp.result_type(*[x.dtype for x in jax.tree.leaves(updates)])
        count = optax.safe_increment(state.count)
        s, one = jnp.asarray(count, dtype), jnp.ones((), dtype)
        g = model.transform(updates)
        memory, moments = {}, {}
        for name, m in model.memories().items():
            held = jax.tree.map(lambda h: h[None], m.of(g))
            memory[name] = m.markov.propagate(state.memory[name], one, held)
            # read where the step ends: an advanced reading is no other one here
            moments[name] = m.as_read(s - m.ahead, m.markov.read(memory[name]), g)
        direction, _ = model.fraction(s, params, g, moments)
        return direction, ScaleByMemoriesState(count, memory)

    return optax.GradientTransformation(init, update)
