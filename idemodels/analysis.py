"""Stability and convergence of models and trajectories."""

from ._analysis.linearize import Linearization as Linearization, linearize as linearize
from ._analysis.stability import Stability as Stability, stability as stability
from ._analysis.lyapunov import Lyapunov as Lyapunov, lyapunov as lyapunov
from ._analysis.hold import Hypothesis as Hypothesis
from ._analysis.convergence import Convergence as Convergence, convergence as convergence
from ._analysis.rates import Fit as Fit, Parameter as Parameter
from ._analysis.agreement import Agreement as Agreement, Errors as Errors, agreement as agreement
