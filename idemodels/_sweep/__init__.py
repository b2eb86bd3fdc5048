from .design import axis as axis, points as points
from .run import sweep as sweep
