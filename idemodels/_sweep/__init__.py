from .design import axis as axis, points as points
from .sweep import sweep as sweep
