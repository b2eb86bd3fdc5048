from .cases import Case as Case, shown as shown, varying as varying
from .derivatives import (
    DerivativeConfig as DerivativeConfig,
    is_derivative as is_derivative,
    read_derivative as read_derivative,
)
from .errors import ConfigError as ConfigError
from .find import find_config as find_config, shipped as shipped
from .read import Config as Config, read_config as read_config, read_title as read_title
from .sweeps import SweepConfig as SweepConfig, is_sweep as is_sweep, read_sweep as read_sweep
