"""A discrete convolution whose input becomes known one by one, after the sums it goes into."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int

BLOCK = 128


class Online(eqx.Module):
    r"""$\sum_{q<i} w_{i-q} f_q$ for i = 0, 1, ..., in $O(n \log^2 n)$ for n of them.

    Inside a block of `BLOCK` steps each $f_q$ is added to the sums after it. When block k is done,
    the span of $L = 2^z$ blocks that ends with it, z the number of twos in k, is added to the next
    L blocks by one FFT of twice that size: every pair (q, i) of different blocks meets in one span.

    Source: Hairer, Lubich & Schlichte, "Fast numerical solution of nonlinear Volterra convolution
    equations" (1985); "relaxed multiplication" in van der Hoeven (2002).

    A sum is exact to rounding relative to the largest terms of its span, not to itself.
    """

    head: Float[Array, " two_blocks"]
    spectra: tuple[Array, ...]  # one for each size of a span

    @classmethod
    def of(cls, weights: Float[Array, " n"], steps: int) -> "Online":
        """For `steps` sums with the weights w of lags 0, 1, ..."""
        length = room(steps)
        weights = jnp.pad(weights[:length], (0, max(length - weights.size, 0)))
        head = jnp.pad(weights[:BLOCK], (BLOCK, 0))
        spans = [BLOCK << z for z in range(_levels(steps))]
        return cls(head, tuple(jnp.fft.rfft(weights[: 2 * span]) for span in spans))

    def push(
        self, sums: Float[Array, "block p"], r: Int[Array, ""], f: Float[Array, " p"]
    ) -> Float[Array, "block p"]:
        """The sums of a block after its r-th input."""
        lags = jax.lax.dynamic_slice_in_dim(self.head, BLOCK - r, BLOCK)
        return sums + lags[:, None] * f[None]

    def close(
        self, buffer: Float[Array, "room p"], done: Int[Array, ""], level: Int[Array, ""]
    ) -> Float[Array, "room p"]:
        """After `done` blocks: a buffer of inputs, and of sums past them, with the next sums.

        **Arguments:**

        - `level`: see `span_levels`; not to be batched, so that one branch alone is run.
        """

        def branch(spectrum: Complex[Array, " frequencies"]):
            span = spectrum.size - 1

            def add(buffer):
                f = jax.lax.dynamic_slice_in_dim(buffer, done * BLOCK - span, span)
                transformed = jnp.fft.rfft(f.T, 2 * span) * spectrum[None]
                more = jnp.fft.irfft(transformed, 2 * span)[:, span:].T
                sums = jax.lax.dynamic_slice_in_dim(buffer, done * BLOCK, span)
                return jax.lax.dynamic_update_slice_in_dim(buffer, sums + more, done * BLOCK, 0)

            return add

        branches = [*map(branch, self.spectra), lambda buffer: buffer]
        return jax.lax.switch(level, branches, buffer)


def blocks(steps: int) -> int:
    """How many blocks `steps` sums take."""
    return -(-steps // BLOCK)


def room(steps: int) -> int:
    """How long a buffer for `steps` sums must be."""
    return BLOCK << _levels(steps)


def span_levels(steps: int, count: int) -> np.ndarray:
    """The branch of `Online.close` after each of `count` blocks, the last of them in vain."""
    done = np.arange(1, count + 1)
    twos = np.log2(done & -done).astype(np.int32)
    return np.where(done < blocks(steps), twos, _levels(steps)).astype(np.int32)


def _levels(steps: int) -> int:
    return max(blocks(steps) - 1, 0).bit_length()
