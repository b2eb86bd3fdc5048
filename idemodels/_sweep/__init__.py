from .design import Axis as Axis, axis as axis, points as points
from .rounds import STATUS as STATUS
from .run import sweep as sweep
from .store import StoreError as StoreError
