"""AdaGrad, RMSProp and Adam as differential equations with memory, in JAX."""

from . import analysis as analysis
from ._compare import Comparison as Comparison, compare as compare
from ._discrete import run_discrete as run_discrete
from ._equation import Equation as Equation
from ._flow import InterpolatingFlow as InterpolatingFlow
from ._kernel import (
    AbstractKernel as AbstractKernel,
    AbstractMarkovKernel as AbstractMarkovKernel,
    Constant as Constant,
    Exponential as Exponential,
    FunctionKernel as FunctionKernel,
    Memory as Memory,
    PowerLaw as PowerLaw,
    SecondOrder as SecondOrder,
    SumOfExponentials as SumOfExponentials,
    fit_exponentials as fit_exponentials,
)
from ._method import (
    AbstractMethod as AbstractMethod,
    ExponentialMultistep as ExponentialMultistep,
    FixedPoint as FixedPoint,
    History as History,
    Markov as Markov,
    QuasiNewtonBDF as QuasiNewtonBDF,
)
from ._model import (
    AbstractModel as AbstractModel,
    AdaGrad as AdaGrad,
    Adam as Adam,
    MemoryModel as MemoryModel,
    RMSProp as RMSProp,
    Schedule as Schedule,
    SecondOrderAdam as SecondOrderAdam,
)
from ._objective import (
    DigitsMLP as DigitsMLP,
    DoubleWell as DoubleWell,
    Factorization as Factorization,
    LinearRegression as LinearRegression,
    LogCosh as LogCosh,
    LogisticRegression as LogisticRegression,
    Quadratic as Quadratic,
    Rosenbrock as Rosenbrock,
    TiltedDoubleWell as TiltedDoubleWell,
)
from ._results import (
    RESULTS as RESULTS,
    State as State,
    Trajectory as Trajectory,
    is_okay as is_okay,
)
from ._sensitivity import (
    Derivative as Derivative,
    Sensitivity as Sensitivity,
    sensitivity as sensitivity,
)
from ._solve import solve as solve, state_from_optax as state_from_optax
from ._sweep import axis as axis, points as points, sweep as sweep

__version__ = "0.1.0"
