from .digits import DigitsMLP as DigitsMLP
from .double_well import DoubleWell as DoubleWell, TiltedDoubleWell as TiltedDoubleWell
from .factorization import Factorization as Factorization
from .log_cosh import LogCosh as LogCosh
from .quadratic import Quadratic as Quadratic
from .regression import (
    LinearRegression as LinearRegression,
    LogisticRegression as LogisticRegression,
)
from .rosenbrock import Rosenbrock as Rosenbrock
