"""Stability and convergence of models and trajectories."""

from ._analysis.linearize import Linearization as Linearization, linearize as linearize
from ._analysis.stability import Stability as Stability, stability as stability
