"""How a model answers to small motions about rest: first moments move, second ones are held."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PyTree

from .._checks import is_concrete
from .._equation import cast, dtype_of, fraction_of
from .._kernel import AbstractMarkovKernel
from .._model import AbstractModel, AdaGrad
from .._types import Moments, Scalar

# Stands for s = infinity: every bias correction is 1 there.
FAR = 1e30
# Where a kernel's integral still grows beyond so much, its memory has no mean at rest.
_SETTLED = 1e15


class Response(NamedTuple):
    r"""The direction's derivative, where it is diagonal and all its parts have one profile.

    $$\delta\,\mathrm{direction} = c_\theta\,\delta\theta + q\,(c_g\,\delta g +
      \textstyle\sum_i c_i\,\delta m_i)$$

    - `profile`: q, like theta: for Adam $1/((1-b_1^s)(\sqrt{\hat v} + \epsilon))$.
    - `of_theta`, `of_gradient`: $c_\theta$ and $c_g$; `of_moments`: $c_i$ by name.
    - `fits`: whether it is so; else the rest means nothing.
    """

    profile: PyTree[Array]
    of_theta: Scalar
    of_gradient: Scalar
    of_moments: dict[str, Scalar]
    fits: Array


def moving(model: AbstractModel) -> tuple[str, ...]:
    """The memories that answer to the gradient at rest: their feature has a slope at g = 0.

    Those of g, not those of its square, which are held where they are.

    **Raises:** `ValueError` if such a one has no finite state space, or its feature no finite
    slope.
    """
    names = []
    for name, memory in model.memories().items():
        slope = float(slope_of(memory))
        if not np.isfinite(slope):
            raise ValueError(
                f"Argument `model` must have features with a finite slope at g = 0, but that of "
                f"{name!r} is {slope}."
            )
        if slope == 0.0:
            continue
        if not isinstance(memory.kernel, AbstractMarkovKernel):
            raise ValueError(
                f"Argument `model` must have kernels with finitely many states for what moves with "
                f"the gradient, but {name!r} has {type(memory.kernel).__name__}. Replace it by "
                "`idemodels.fit_exponentials(kernel, horizon, tol)`."
            )
        names.append(name)
    return tuple(names)


def slope_of(memory: Any) -> Array:
    """The feature's slope at g = 0."""
    zero, one = jnp.zeros(1), jnp.ones(1)
    return jax.jvp(memory.feature, (zero,), (one,))[1][0]


def check_step(model: AbstractModel, s: Any) -> None:
    """Raises if nothing is steady far from the start, and `s` does not say where else."""
    if s is not None:
        number = isinstance(s, int | float) or (eqx.is_array(s) and s.ndim == 0)
        if not number or not is_concrete(s) or not float(s) > 0:
            raise ValueError(
                f"Argument `s` must be a positive number, since memories are empty at 0, but is "
                f"{s!r}."
            )
        return
    why = ""
    if callable(model.learning_rate):
        why = "its learning rate is a schedule"
    elif isinstance(model, AdaGrad) and float(model.lr_decay) != 0:
        why = "its learning rate decays (`lr_decay`)"
    for name, memory in model.memories().items():
        if memory.debias and not _has_mean(memory):
            why = f"the memory {name!r} never forgets"
    if why:
        raise ValueError(
            f"Argument `s` must be the optimizer step at which the model is read, since {why}, but "
            "is None."
        )


def with_steady(model: AbstractModel, g: PyTree[Array], moments: Any) -> Moments:
    """All the model's moments: those that are given, and what others rest at while g stays.

    **Raises:** `ValueError` for a name that the model has not, a moment of another shape, and
    where a memory never comes to rest.
    """
    memories = model.memories()
    given = {} if moments is None else dict(moments)
    for name in given:
        if name not in memories:
            raise ValueError(
                f"Argument `moments` must have names of the model's memories, "
                f"{', '.join(map(repr, memories)) or 'none'}, but has {name!r}."
            )
    found = {}
    for name, memory in memories.items():
        if name in given:
            found[name] = _like(given[name], g, name)
            continue
        if not _has_mean(memory):
            raise ValueError(
                f"Argument `moments` must have {name!r}, a memory that never comes to rest, but "
                f"has {list(given) or 'nothing'}. Pass `moments={{{name!r}: ...}}`."
            )
        weight = memory.kernel.integral(jnp.asarray(FAR))
        found[name] = jax.tree.map(lambda h: weight.astype(h.dtype) * h, memory.of(g))
    return found


def _has_mean(memory: Any) -> bool:
    return float(memory.kernel.integral(jnp.asarray(FAR))) < _SETTLED


def _like(moment: Any, g: PyTree[Array], name: str) -> PyTree[Array]:
    as_array = lambda x: jnp.asarray(x) if eqx.is_inexact_array_like(x) else None
    moment = jax.tree.map(as_array, moment)
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    if jax.tree.structure(moment) != jax.tree.structure(g) or shapes(moment) != shapes(g):
        raise ValueError(
            f"Argument `moments` must have floating arrays like `theta`, {shapes(g)}, but "
            f"{name!r} has {shapes(moment)}."
        )
    return jax.tree.map(lambda m, g: m.astype(g.dtype), moment, g)


def linear_direction(
    model: AbstractModel,
    names: Sequence[str],
    s: Any,
    theta: PyTree[Array],
    g: PyTree[Array],
    moments: Moments,
) -> Any:
    """The direction's derivative: a linear function of the motions of theta, g, and moving moments.

    Numerators are linearised at rest, g = 0 and first moments 0; denominators are held as they
    are at `g` and `moments`. The moving ones are `names`.
    """
    nothing = jax.tree.map(jnp.zeros_like, g)
    _, below = fraction_of(model, s, theta, g, moments)

    def above(theta, g, moved):
        return fraction_of(model, s, theta, g, {**moments, **moved})[0]

    _, pushed = jax.linearize(above, theta, nothing, dict.fromkeys(names, nothing))
    return lambda *motion: jax.tree.map(jnp.divide, pushed(*motion), below)


def response(
    model: AbstractModel,
    names: Sequence[str],
    s: Any,
    theta: PyTree[Array],
    g: PyTree[Array],
    moments: Moments,
) -> Response:
    """The `Response` at a point, and whether there is one: probed with a random motion."""
    answer = linear_direction(model, names, s, theta, g, moments)
    zeros = jax.tree.map(jnp.zeros_like, g)
    ones = jax.tree.map(jnp.ones_like, g)
    noise = _random_like(g)

    def profile_of(i):
        at = lambda motion: (
            motion if i == "theta" else zeros,
            motion if i == "g" else zeros,
            {name: motion if i == name else zeros for name in names},
        )
        diagonal, probed = answer(*at(ones)), answer(*at(noise))
        return diagonal, _close(probed, jax.tree.map(jnp.multiply, diagonal, noise))

    parts = {i: profile_of(i) for i in ("g", *names)}
    of_theta, fits = profile_of("theta")
    dtype = dtype_of(theta)
    profile = zeros
    shares: dict[str, Any] = {}
    for i in (*names, "g"):  # the profile is that of the first part that there is
        part, diagonal = parts[i]
        present = _largest(part) > 0
        fits = fits & diagonal
        first = _largest(profile) == 0
        profile = jax.tree.map(lambda q, p: jnp.where(first, p, q), profile, part)
        share = jnp.where(present, _dot(profile, part) / _dot(profile, profile), 0.0)
        shares[i] = jnp.asarray(share, dtype)
        fits = fits & _close(part, jax.tree.map(lambda q: share.astype(q.dtype) * q, profile))
    decay = jax.tree.leaves(of_theta)[0].reshape(-1)[0]
    fits = fits & _close(of_theta, jax.tree.map(lambda x: jnp.full_like(x, decay), of_theta))
    fits = fits & jnp.all(jnp.stack([jnp.all(q >= 0) for q in jax.tree.leaves(profile)]))
    own = {name: shares[name] for name in names}
    return Response(profile, jnp.asarray(decay, dtype), shares["g"], own, fits)


def alpha_at(model: AbstractModel, s: Any, dtype: Any) -> Scalar:
    """The learning rate at s."""
    return cast(model, dtype).alpha(jnp.asarray(s, dtype))


def _random_like(tree: PyTree[Array]) -> PyTree[Array]:
    leaves, treedef = jax.tree.flatten(tree)
    keys = jr.split(jr.key(0), len(leaves))
    drawn = [jr.normal(key, x.shape, x.dtype) for key, x in zip(keys, leaves, strict=True)]
    return treedef.unflatten(drawn)


def _dot(a: PyTree[Array], b: PyTree[Array]) -> Scalar:
    return sum(
        (jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)),
        start=jnp.zeros(()).astype(dtype_of(a)),
    )


def _largest(tree: PyTree[Array]) -> Scalar:
    return jnp.max(jnp.stack([jnp.max(jnp.abs(x), initial=0.0) for x in jax.tree.leaves(tree)]))


def _close(a: PyTree[Array], b: PyTree[Array]) -> Array:
    """Equal but for rounding, relative to the larger of both, component by component."""

    def leaf(x, y):
        room = 1e4 * jnp.finfo(x.dtype).eps
        return jnp.all(jnp.abs(x - y) <= room * (jnp.abs(x) + jnp.abs(y)))

    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return jnp.all(jnp.stack([leaf(x, y) for x, y in pairs]))
