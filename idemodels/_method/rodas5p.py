"""A linearly implicit solver for the augmented equation, for stiff stretches."""

from typing import Any, ClassVar

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from .._equation import Augmented, Equation, equation_of, quotient
from .._second import jacobian

# The published coefficients of Rodas5P in the form that needs no product with the Jacobian:
# Steinebach (2023), BIT 63:27, doi:10.1007/s10543-023-00967-x. Stages 7 and 8 start from the stage
# before plus its increment, and the last increment is the error estimate.
_GAMMA = 0.21193756319429014
_A = np.array(
    [
        [0.0, 0.0, 0.0, 0.0, 0.0],
        [3.0, 0.0, 0.0, 0.0, 0.0],
        [2.849394379747939, 0.45842242204463923, 0.0, 0.0, 0.0],
        [-6.954028509809101, 2.489845061869568, -10.358996098473584, 0.0, 0.0],
        [2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641, 0.0],
        [
            -7.502846399306121,
            2.561846144803919,
            -11.627539656261098,
            -0.18268767659942256,
            0.030198172008377946,
        ],
    ]
)
_C = (
    (),
    (-14.155112264123755,),
    (-17.97296035885952, -2.859693295451294),
    (147.12150275711716, -1.41221402718213, 71.68940251302358),
    (165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306),
    (
        24.854864614690072,
        -3.0009227002832186,
        47.4931110020768,
        5.5814197821558125,
        -0.6610691825249471,
    ),
    (
        30.91273214028599,
        -3.1208243349937974,
        77.79954646070892,
        34.28646028294783,
        -19.097331116725623,
        -28.087943162872662,
    ),
    (
        37.80277123390563,
        -3.2571969029072276,
        112.26918849496327,
        66.9347231244047,
        -40.06618937091002,
        -54.66780262877968,
        -9.48861652309627,
    ),
)
_NODES = (0.0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716, 0.4288403609558664)
_D = (
    0.21193756319429014,
    -0.42387512638858027,
    -0.3384627126235924,
    1.8046452872882734,
    2.325825639765069,
)
_DENSE = np.array(
    [
        [
            25.948786856663858,
            -2.5579724845846235,
            10.433815404888879,
            -2.3679251022685204,
            0.524948541321073,
            1.1241088310450404,
            0.4272876194431874,
            -0.17202221070155493,
        ],
        [
            -9.91568850695171,
            -0.9689944594115154,
            3.0438037242978453,
            -24.495224566215796,
            20.176138334709044,
            15.98066361424651,
            -6.789040303419874,
            -6.710236069923372,
        ],
        [
            11.419903575922262,
            2.8879645146136994,
            72.92137995996029,
            80.12511834622643,
            -52.072871366152654,
            -59.78993625266729,
            -0.15582684282751913,
            4.883087185713722,
        ],
    ]
)
_STAGES = 8
_LITTLE = 1e-3
# A linear solve in all states, and a Hessian, for every step: for few parameters only.
IMPLICIT_PARAMETERS = 32


class _Interpolation(dfx.AbstractLocalInterpolation):
    """Dense output of order 4: Steinebach (2023), the polynomial through both ends."""

    t0: Any
    t1: Any
    y0: PyTree[Array]
    y1: PyTree[Array]
    k: PyTree[Float[Array, "3 ..."]]

    def evaluate(self, t0, t1=None, left=True):
        del left
        if t1 is not None:
            return jax.tree.map(jnp.subtract, self.evaluate(t1), self.evaluate(t0))
        moves = self.t1 > self.t0
        u = jnp.where(moves, (t0 - self.t0) / jnp.where(moves, self.t1 - self.t0, 1.0), 0.0)

        def leaf(y0, y1, k):
            return (1 - u) * y0 + u * (y1 + (1 - u) * (k[0] + u * (k[1] + u * k[2])))

        return jax.tree.map(leaf, self.y0, self.y1, self.k)


class Rodas5P(dfx.AbstractAdaptiveSolver):
    """Rosenbrock's method of order 5(4) by Steinebach (2023), L-stable and stiffly accurate.

    Instead of a Newton iteration it solves eight linear systems with one matrix, so that a step
    cannot fail to converge and its cost is known beforehand: 8 gradients, and the Hessian of the
    objective, one column for every parameter, by forward mode of the gradient or, where it has
    none, by reverse mode. The rest of the Jacobian is pointwise.

    Gradient and direction are unknowns of their own, g and p, under the algebraic equations
    `g = gradient(theta)` and `denominator * p = numerator`. Where a path slides along a valley, g
    fades until the direction turns over within 1e-11 of the valley's floor: no linearization of the
    right-hand side as a function of theta holds for longer than that, while along the path all four
    unknowns are smooth.

    The term must be that of an [`idemodels.Equation`][]. Dense: for few parameters.
    """

    term_structure: ClassVar = dfx.ODETerm
    interpolation_cls: ClassVar = _Interpolation

    def order(self, terms):
        return 5

    def error_order(self, terms):
        return 5.0  # of the embedded method, 4, plus one

    def init(self, terms, t0, t1, y0, args):
        """**Returns:** the gradient, and the unknowns g and p; every step hands them on."""
        equation = equation_of(terms)
        g = equation.gradient(y0.theta, y0.fixed)
        return g, g, quotient(equation.fraction(t0, y0, g))

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        del args, made_jump
        gradient, g0, p0 = solver_state
        u0 = (y0, g0, p0)
        system = _System(equation_of(terms), u0)
        # under vmap a lane that has ended steps by 0: by a little instead, so that what it makes,
        # which is dropped, is finite
        h = jnp.where(t1 > t0, t1 - t0, _LITTLE)
        start = ravel_pytree(u0)[0]
        J, f_s = system.derivatives(t0, start)
        lu = jax.scipy.linalg.lu_factor(jnp.diag(system.mass / (h * _GAMMA)) - J)
        increments: list[Array] = []
        stage = start
        for i in range(_STAGES):
            if i < len(_A):
                stage = start + sum(a * k for a, k in zip(_A[i].tolist(), increments, strict=False))
            else:
                stage = stage + increments[-1]
            gradient = system.gradient(stage) if i else gradient
            right = system.f(t0 + h * (_NODES[i] if i < len(_NODES) else 1.0), stage, gradient)
            coupled = sum(c * k for c, k in zip(_C[i], increments, strict=True)) / h
            right = right + system.mass * coupled
            if i < len(_D):
                right = right + h * _D[i] * f_s
            increments.append(jax.scipy.linalg.lu_solve(lu, right))
        end = stage + increments[-1]
        dense = jnp.asarray(_DENSE, start.dtype) @ jnp.stack(increments)
        # Where the direction turns over inside the step, the embedded pair may overlook it: the
        # slope at the end is compared as well, through the same matrix.
        gradient = system.gradient(end)
        slope = (end - start - jnp.sum(dense, axis=0)) / h  # of the dense output
        defect = system.f(t1, end, gradient) - system.mass * slope
        defect = jax.scipy.linalg.lu_solve(lu, defect) / _GAMMA
        error = jnp.where(jnp.abs(defect) > jnp.abs(increments[-1]), defect, increments[-1])
        y1, g1, p1 = system.unravel(end)
        info = {"y0": y0, "y1": y1, "k": jax.vmap(system.unravel)(dense)[0]}
        return y1, system.unravel(error)[0], info, (gradient, g1, p1), dfx.RESULTS.successful


class _System:
    """The equation with gradient and direction as unknowns, M u' = f(s, u), on flat arrays.

    `mass` is the diagonal of M: 1 for parameters and memories, 0 for the algebraic unknowns.
    """

    def __init__(self, equation: Equation, u: tuple[Augmented, PyTree[Array], PyTree[Array]]):
        self.equation = equation
        y, g, p = u
        self.fixed = y.fixed
        self.unravel = ravel_pytree(u)[1]
        like = lambda tree, value: jax.tree.map(lambda x: jnp.full_like(x, value), tree)
        self.mass = ravel_pytree((like(y, 1.0), like(g, 0.0), like(p, 0.0)))[0]
        zeros = like(y, 0.0)
        of_theta = Augmented(like(y.theta, 1.0), zeros.memory, y.fixed, zeros.velocity)
        self.is_theta = ravel_pytree((of_theta, like(g, 0.0), like(p, 0.0)))[0] > 0
        self.is_g = ravel_pytree((like(y, 0.0), like(g, 1.0), like(p, 0.0)))[0] > 0

    def gradient(self, u: Float[Array, " n"]) -> PyTree[Array]:
        return self.equation.gradient(self.unravel(u)[0].theta, self.fixed)

    def f(self, s: Any, u: Float[Array, " n"], gradient: PyTree[Array]) -> Float[Array, " n"]:
        """The right-hand side, given the gradient at u's parameters."""
        y, g, p = self.unravel(u)
        numerator, denominator = self.equation.fraction(s, y, g)
        turned = jax.tree.map(lambda n, d, p: n - d * p, numerator, denominator, p)
        faded = jax.tree.map(jnp.subtract, gradient, g)
        return ravel_pytree((self.equation.rates(s, y, g, p), faded, turned))[0]

    def derivatives(
        self, s: Any, u: Float[Array, " n"]
    ) -> tuple[Float[Array, "n n"], Float[Array, " n"]]:
        """The Jacobian of `f` in u, dense, and its derivative in s.

        The objective stands in one block alone, the Hessian; all else is pointwise.
        """
        y, g, _ = self.unravel(u)
        f_s, J = jax.jacfwd(lambda s, u: self.f(s, u, g), argnums=(0, 1))(s, u)
        theta, unravel = ravel_pytree(y.theta)
        flat = lambda theta: ravel_pytree(self.equation.gradient(unravel(theta), self.fixed))[0]
        rows = jnp.nonzero(self.is_g, size=theta.size)[0]
        columns = jnp.nonzero(self.is_theta, size=theta.size)[0]
        return J.at[rows[:, None], columns[None]].add(jacobian(flat, theta)), f_s


def gradients_per_step(parameters: int) -> int:
    """Gradient evaluations in one step of `Rodas5P`; a Hessian's column counts as one."""
    return _STAGES + parameters  # the end's gradient is the next step's first
