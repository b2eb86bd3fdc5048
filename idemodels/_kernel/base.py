"""What a memory is: a kernel, and the feature of the gradient that it remembers."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from .._hashed import Hashed
from .._types import Scalar


class AbstractKernel(Hashed):
    r"""The weight, per optimizer step, that a value seen `lag` steps ago still has: $K(s)$ in (E1).

    One with finitely many states is an [`idemodels.AbstractMarkovKernel`][] and can be solved by
    every method; any other needs [`idemodels.History`][].
    """

    @property
    def exponent(self) -> Any:
        r"""$a$, where $K(s) \sim s^{a-1}$ at small lags: 1 unless the kernel is singular there."""
        return 1.0

    @property
    def signed(self) -> bool:
        """Whether negative weights are meant; those of a user's function are a mistake."""
        return True

    def is_sound(self, values: Array) -> Array:
        """Flags: which of `values`, the kernel's own, are finite, and not negative by mistake."""
        finite = jnp.isfinite(values)
        return finite if self.signed else finite & (values >= 0)

    @abc.abstractmethod
    def evaluate(self, lag: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The closed form $K(s)$, unit 1/step; zero for negative lags (`lag` in steps)."""

    @abc.abstractmethod
    def integral(self, lag: Float[Array, "*s"]) -> Float[Array, "*s"]:
        r"""$\int_0^s K$: what a feature that never changed is weighed with after `lag` steps.

        To rounding, relative to itself, however small `lag` is; 0 at 0.
        """

    def valid(self) -> Any:
        """Whether the parameters lie where the constructor wants them; may be traced."""
        return jnp.ones((), bool)

    def matrix(self, ts: Float[Array, " t"]) -> Float[Array, "t t"]:
        """The dense matrix $K(t_i - t_j)$."""
        return self.evaluate(ts[:, None] - ts[None, :])


class AbstractMarkovKernel(AbstractKernel):
    r"""A kernel with finitely many states, $K(s) = C e^{As} B$: its integral is an ODE as well.

    It is given twice, in closed form (`evaluate`) and as that linear system (`state_space`). The
    states of a memory carry a leading axis of length n, the order of the system.
    """

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
    r"""A feature of the gradient, remembered under a kernel: one `moment_i` of (E1).

    **Arguments:**

    - `kernel`: how long, an [`idemodels.AbstractKernel`][].
    - `feature`: what, a function of one leaf of the gradient: `lambda g: g**2`.
    - `debias`: whether the direction gets the moment divided by $\int_0^s K$, a weighted mean of
        the feature, as `optax.ema` has it; the feature itself where that integral is 0, as at
        s = 0. For an `Exponential` of rate $-\ln b$ it is the bias correction $1 - b^s$ of Adam.
    - `ahead`: how many steps ahead of s the direction reads it: 0, or 1, which makes the equation
        an advanced one, for [`idemodels.FixedPoint`][].

    **Raises:** `ValueError` if an argument is not as above.
    """

    kernel: AbstractKernel
    feature: Callable[[Array], Array]
    debias: bool = eqx.field(default=False, static=True, kw_only=True)
    ahead: int = eqx.field(default=0, static=True, kw_only=True)

    def __check_init__(self):
        if not isinstance(self.kernel, AbstractKernel):
            raise ValueError(
                "Argument `kernel` must be a kernel such as `idemodels.Exponential(0.1)`, but is "
                f"{self.kernel!r}. A function of the lag goes in as `idemodels.FunctionKernel(f)`."
            )
        if not callable(self.feature):
            raise ValueError(f"Argument `feature` must be callable, but is {self.feature!r}.")
        if self.ahead not in (0, 1):
            raise ValueError(f"Argument `ahead` must be 0 or 1, but is {self.ahead!r}.")

    @property
    def markov(self) -> AbstractMarkovKernel:
        """The kernel, where it is known to have finitely many states."""
        assert isinstance(self.kernel, AbstractMarkovKernel)
        return self.kernel

    def of(self, gradient: PyTree[Array]) -> PyTree[Array]:
        """The feature of every leaf of `gradient`."""
        return jax.tree.map(self.feature, gradient)

    def as_read(self, s: Scalar, moment: PyTree[Array], gradient: PyTree[Array]) -> PyTree[Array]:
        """What the direction gets: the raw moment, divided by the kernel's integral to debias it.

        **Arguments:**

        - `moment`: at s, or where the memory is read ahead, at s + `ahead`.
        - `gradient`: at s; in the limit at s = 0 it stands for all that was seen.
        """
        if not self.debias:
            return moment
        lag = jnp.asarray(s) + self.ahead
        started = lag > 0
        total = self.kernel.integral(jnp.where(started, lag, 1.0))
        started = started & (total > 0)  # a kernel may begin later, or its integral underflow
        total = jnp.where(started, total, 1.0)
        mean = lambda m, h: jnp.where(started, m / total.astype(m.dtype), h)
        return jax.tree.map(mean, moment, self.of(gradient))


def as_lag(lag: ArrayLike) -> Float[Array, "*s"]:
    """A lag or lags as a floating array, in their own precision."""
    lag = jnp.asarray(lag)
    return lag if jnp.issubdtype(lag.dtype, jnp.floating) else lag.astype(jnp.result_type(float))


def _matvec(A: Float[Array, "n k"], z: Float[Array, "k *shape"]) -> Float[Array, "n *shape"]:
    if A.shape == (1, 1):  # the common case, without a matrix product over all parameters
        return A[0, 0] * z
    return jnp.tensordot(A, z, axes=1)


def _outer(B: Float[Array, " n"], u: Float[Array, "*shape"]) -> Float[Array, "n *shape"]:
    return B.reshape((-1,) + (1,) * u.ndim) * u[None]
