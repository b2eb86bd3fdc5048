from .base import (
    AbstractKernel as AbstractKernel,
    AbstractMarkovKernel as AbstractMarkovKernel,
    Memory as Memory,
)
from .constant import Constant as Constant
from .exponential import Exponential as Exponential, powers_of as powers_of
from .fit import fit_exponentials as fit_exponentials
from .function_kernel import FunctionKernel as FunctionKernel, check_kernel as check_kernel
from .power_law import PowerLaw as PowerLaw
from .second_order import SecondOrder as SecondOrder
from .sum_of_exponentials import SumOfExponentials as SumOfExponentials
