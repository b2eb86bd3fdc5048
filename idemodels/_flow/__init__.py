from .equation import FlowEquation as FlowEquation, weights_of as weights_of
from .flow import InterpolatingFlow as InterpolatingFlow
from .plan import Paces as Paces, Plan as Plan, plan_of as plan_of
from .state import by_path as by_path
from .trust import (
    DIFFERENCES as DIFFERENCES,
    SETTLED as SETTLED,
    distrust as distrust,
    gradients_of_looks as gradients_of_looks,
    looks as looks,
    roughness_of as roughness_of,
)
