"""Which readings of power can be: a failing sensor answers, too, and what it says must not become joules."""

from collections.abc import Callable
from typing import Final

from llem_core.errors import DeviceError

ZERO_POWER: Final = "ZERO_POWER"
POWER_ABOVE_LIMIT: Final = "POWER_ABOVE_LIMIT"
NOT_A_SAMPLE: Final = "NOT_A_SAMPLE"
"""Our names of errors, beside the driver's."""

NOT_AVAILABLE: Final = 0xFFFF_FFFF
"""Source: nvml.h, NVML_VALUE_NOT_AVAILABLE (-1), in an unsigned field."""

TIMES_LIMIT: Final = {"gpu": 2.0, "module": 4.0}
"""So many times the highest limit that a GPU can be set to are no power of its. Spikes above the limit are
real, and shorter than a sensor's window; a module has a CPU, and may have a second GPU, beside it."""


CEILING_WATTS: Final = 5000.0
"""The maximum power of a GPU without a known limit. The highest known limit is 2900 W (GB300 module)."""


def known_limit_mw(milliwatts: int | None) -> int | None:
    """Return the limit in mW, or None if it is unknown. Some cards report an unknown limit as 0 or -1."""
    return None if milliwatts in (None, 0, NOT_AVAILABLE) else milliwatts


def plausible(read_milliwatts: Callable[[], int], limit_mw: int | None, scope: str) -> Callable[[], int]:
    """Return a reader that raises DeviceError for 0, "not available" or power above the maximum."""
    most_milliwatts = TIMES_LIMIT[scope] * limit_mw if limit_mw else 1000 * CEILING_WATTS

    def read() -> int:
        milliwatts = read_milliwatts()
        if milliwatts == 0:
            raise DeviceError("it reads 0 W, and no GPU that answers draws nothing", ZERO_POWER)
        if milliwatts == NOT_AVAILABLE:
            raise DeviceError("the driver has no value", NOT_A_SAMPLE)
        if milliwatts > most_milliwatts:
            text = f"it reads {milliwatts / 1000:g} W, but the maximum is {most_milliwatts / 1000:g} W"
            raise DeviceError(text, POWER_ABOVE_LIMIT)
        return milliwatts

    return read
