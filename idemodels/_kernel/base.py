"""What a memory is: a kernel, and the feature of the gradient that it remembers."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._types import Scalar


class AbstractKernel(eqx.Module):
    r"""The weight, per optimizer step, that a value seen `lag` steps ago still has: $K(s)$ in (E1).

    A kernel is given twice: in closed form (`evaluate`), and as a linear system with finitely many
    states (`state_space`), $K(s) = C e^{As} B$, so that the memory integral becomes an ODE. The
    states of a memory carry a leading axis of length n, the order of that system.
    """

    @abc.abstractmethod
    def evaluate(self, lag: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The closed form $K(s)$, unit 1/step; zero for negative lags (`lag` in steps)."""

    @abc.abstractmethod
    def state_space(
        self,
    ) -> tuple[Float[Array, "n n"], Float[Array, " n"], Float[Array, " n"]]:
        """`(A, B, C)` with $K(s) = C e^{As} B$: the memory as extra states of an ODE."""

    @abc.abstractmethod
    def propagator(
        self, h: Scalar, degree: int
    ) -> tuple[Float[Array, "n n"], Float[Array, "degree_plus_1 n"]]:
        r"""The exact solution over a step `h`, as a transition matrix and input weights.

        **Returns:** `(E, W)` such that $z(h) = E z(0) + \sum_j W_j c_j$ where the input is
        $u(\tau) = \sum_j c_j \tau^j$, $0 \le \tau \le h$, $j$ = 0..`degree`.
        """

    def matrix(self, ts: Float[Array, " t"]) -> Float[Array, "t t"]:
        """The dense matrix $K(t_i - t_j)$."""
        return self.evaluate(ts[:, None] - ts[None, :])

    def init(self, feature: PyTree[Array]) -> PyTree[Array]:
        """The empty memory of a feature shaped like this one: zeros of shape `(n, *shape)`."""
        _, B, _ = self.state_space()
        return jax.tree.map(lambda u: jnp.zeros((B.size, *u.shape), u.dtype), feature)

    def derivative(self, state: PyTree[Array], feature: PyTree[Array]) -> PyTree[Array]:
        """$z' = A z + B u$, on every leaf."""
        A, B, _ = self.state_space()

        def leaf(z, u):
            return _matvec(A.astype(z.dtype), z) + _outer(B.astype(u.dtype), u)

        return jax.tree.map(leaf, state, feature)

    def read(self, state: PyTree[Array]) -> PyTree[Array]:
        """The moment $C z$: the states' leading axis goes."""
        _, _, C = self.state_space()
        return jax.tree.map(lambda z: _matvec(C.astype(z.dtype)[None], z)[0], state)

    def propagate(self, state: PyTree[Array], h: Scalar, inputs: PyTree[Array]) -> PyTree[Array]:
        r"""The states after a step `h`, exactly, while the input is a polynomial in the step.

        With a constant input, `h` = 1 and the rate $-\ln b$ this is one update of an optimizer's
        moving average.

        **Arguments:**

        - `state`: the states now; leaves `(n, *shape)`.
        - `h`: the step, in optimizer steps.
        - `inputs`: the coefficients of the input, lowest power of the time since the step's start
            first; leaves `(degree + 1, *shape)`.
        """
        degree = jax.tree.leaves(inputs)[0].shape[0] - 1
        E, W = self.propagator(h, degree)
        return jax.tree.map(lambda z, c: _matvec(E, z) + _matvec(W.T, c), state, inputs)


class Memory(eqx.Module):
    """A feature of the gradient, remembered under a kernel: one `moment_i` of (E1).

    **Arguments:**

    - `kernel`: how long, an [`AbstractKernel`][].
    - `feature`: what, a function of one leaf of the gradient: `lambda g: g**2`.
    """

    kernel: AbstractKernel
    feature: Callable[[Array], Array]

    def of(self, gradient: PyTree[Array]) -> PyTree[Array]:
        """The feature of every leaf of `gradient`."""
        return jax.tree.map(self.feature, gradient)


def _matvec(A: Float[Array, "n k"], z: Float[Array, "k *shape"]) -> Float[Array, "n *shape"]:
    if A.shape == (1, 1):  # the common case, without a matrix product over all parameters
        return A[0, 0] * z
    return jnp.tensordot(A, z, axes=1)


def _outer(B: Float[Array, " n"], u: Float[Array, "*shape"]) -> Float[Array, "n *shape"]:
    return B.reshape((-1,) + (1,) * u.ndim) * u[None]
