"""The largest eigenvalues of a symmetric matrix that is known by its products alone."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int

from .._types import Scalar


class Leading(NamedTuple):
    """- `values`: the largest eigenvalues, descending, shape `(k,)`.
    - `vectors`: their eigenvectors, rows of length 1, shape `(k, n)`.
    - `error`: the largest residual |A x - value x| among them.
    - `products`: how many products with the matrix were taken.
    """

    values: Float[Array, " k"]
    vectors: Float[Array, "k n"]
    error: Scalar
    products: Int[Array, ""]


def leading(
    product: Callable[[Array], Array],
    start: Float[Array, " n"],
    count: int,
    *,
    tol: float,
    size: int | None = None,
    restarts: int = 100,
) -> Leading:
    """Lanczos' method with thick restarts (Wu & Simon 2000, doi:10.1137/S0895479898334605).

    **Arguments:**

    - `product`: a vector of shape `(n,)` times the matrix.
    - `start`: where the Krylov space starts; near to the wanted vectors it is soon done.
    - `count`: how many eigenvalues.
    - `tol`: the residual, relative to the largest value in size; an eigenvalue is wrong by at most
        that, and by its square over the gap to the next.
    - `size`: vectors kept, more than `count` + 1.
    """
    n = start.size
    size = min(n, size or 3 * count + 12)
    kept = min(count + 3, size - 1)
    eps = jnp.finfo(start.dtype).eps
    tol = max(tol, 50 * float(eps))

    def extend(j, state):
        """One more vector, orthogonal to all others twice over."""
        Q, T, _ = state
        w = product(Q[j])
        for again in range(2):
            h = Q @ w
            w = w - h @ Q
            T = T.at[:, j].add(h[:size]) if again else T.at[:, j].set(h[:size])
        length = jnp.linalg.norm(w)
        lost = length <= eps * jnp.max(jnp.abs(T))  # the space is invariant: go on anywhere
        w = jnp.where(lost, _orthogonal(jr.fold_in(jr.key(1), j), Q), w)
        Q = Q.at[j + 1].set(w / jnp.linalg.norm(w))
        return Q, T, jnp.where(lost, 0.0, length)

    def cycle(state):
        Q, T, from_, restart, products, *_ = state
        Q, T, beyond = jax.lax.fori_loop(from_, size, extend, (Q, T, jnp.zeros((), Q.dtype)))
        upper = jnp.triu(T)
        values, Y = jnp.linalg.eigh(upper + jnp.triu(T, 1).T)
        scale = jnp.max(jnp.abs(values))
        error = jnp.max(jnp.abs(beyond * Y[-1, -count:]))
        rows = Y[:, -kept:].T @ Q[:size]
        done = error <= tol * scale
        Q_next = jnp.zeros_like(Q).at[:kept].set(rows).at[kept].set(Q[size])
        T_next = jnp.zeros_like(T).at[:kept, :kept].set(jnp.diag(values[-kept:]))
        products = products + (size - from_)
        return Q_next, T_next, jnp.asarray(kept), restart + 1, products, values, error, done

    def unfinished(state):
        *_, restart, _, _, _, done = state
        return ~done & (restart < restarts)

    Q = jnp.zeros((size + 1, n), start.dtype).at[0].set(start / jnp.linalg.norm(start))
    T = jnp.zeros((size, size), start.dtype)
    zero = jnp.asarray(0)
    nothing = jnp.asarray(jnp.inf, start.dtype)
    begin = (Q, T, zero, zero, zero, jnp.zeros(size, start.dtype), nothing, jnp.zeros((), bool))
    Q, *_, products, values, error, _ = jax.lax.while_loop(unfinished, cycle, begin)
    order = slice(kept - count, kept)
    return Leading(values[-count:][::-1], Q[order][::-1], error, products)


def _orthogonal(key, Q: Float[Array, "m n"]) -> Float[Array, " n"]:
    """A direction that is in none of the rows."""
    w = jr.normal(key, Q.shape[1:], Q.dtype)
    for _ in range(2):
        w = w - (Q @ w) @ Q
    return w / jnp.linalg.norm(w)
