from .horizon import Horizon as Horizon, horizon as horizon
from .tune import Parts as Parts, Tuned as Tuned, split as split, tune as tune

# What `idemodels study` may be followed by.
KINDS = ("hyper", "horizon")
