from .design import Axis as Axis, axis as axis, complement as complement, points as points
from .rounds import FINE as FINE, STATUS as STATUS
from .run import sweep as sweep
from .store import StoreError as StoreError
