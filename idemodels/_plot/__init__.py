from .figures import FIGURES as FIGURES, draw as draw, rendered as rendered
from .heat import heat_maps as heat_maps
from .hyper import descent_figure as descent_figure, horizon_figure as horizon_figure
from .pair import Pair as Pair, Side as Side
from .quantities import components as components
from .style import COLOURS as COLOURS, LINES as LINES, RC as RC, label as label
