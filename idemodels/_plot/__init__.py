from .figures import FIGURES as FIGURES, draw as draw, rendered as rendered
from .heat import heat_maps as heat_maps
from .pair import Pair as Pair, Side as Side
from .quantities import components as components
from .style import COLOURS as COLOURS, LINES as LINES, RC as RC, label as label
