from .figures import draw as draw, rendered as rendered
from .pair import Pair as Pair
