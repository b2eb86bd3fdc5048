"""When AdaGrad and RMSProp read their moment: the paper's equation reads it one step ahead."""

from .._checks import check_option

READINGS = ("causal", "closure", "advanced")


def check_reading(reading: str) -> None:
    """Raises unless `reading` is one that an ODE can hold."""
    check_option(reading, "reading", READINGS)
    if reading == "advanced":
        raise ValueError(
            "Argument `reading` must be 'closure' or 'causal', but is 'advanced': that equation "
            "reads the gradient one step ahead and needs the method `FixedPoint`, which this "
            "version does not have. Use 'closure', its nearest ODE."
        )
