"""Stability and convergence: of models at a point, and along trajectories.

Each function says whose path it looked at, the equation's or the discrete algorithm's, which
theorem it took, what that assumes, and whether the run fulfils it.
"""

from ._analysis.agreement import Agreement as Agreement, Errors as Errors, agreement as agreement
from ._analysis.convergence import Convergence as Convergence, convergence as convergence
from ._analysis.hold import Hypothesis as Hypothesis
from ._analysis.linearize import Linearization as Linearization, linearize as linearize
from ._analysis.lyapunov import Lyapunov as Lyapunov, lyapunov as lyapunov
from ._analysis.order_study import OrderStudy as OrderStudy, order_study as order_study
from ._analysis.rate_table import rate_table as rate_table
from ._analysis.rates import Fit as Fit, Parameter as Parameter
from ._analysis.smoothness import Smoothness as Smoothness, smoothness as smoothness
from ._analysis.stability import Stability as Stability, stability as stability
from ._analysis.theorems import Theorem as Theorem, theorems as theorems
