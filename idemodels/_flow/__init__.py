from .equation import FlowEquation as FlowEquation
from .flow import InterpolatingFlow as InterpolatingFlow
