"""Reject impossible readings. A failing sensor still returns values, which must not be integrated."""

from math import isfinite
from typing import Final

from llem_core.errors import DeviceError

ZERO_POWER: Final = "ZERO_POWER"
POWER_ABOVE_LIMIT: Final = "POWER_ABOVE_LIMIT"
NOT_A_SAMPLE: Final = "NOT_A_SAMPLE"
"""Our names of errors, used beside the driver's names."""

NOT_AVAILABLE: Final = 0xFFFF_FFFF
"""Source: nvml.h, NVML_VALUE_NOT_AVAILABLE (-1), in an unsigned field."""

TIMES_LIMIT: Final = 2.0
"""Power above this multiple of the highest limit that can be set is impossible. Real spikes above the limit
are shorter than a sensor's averaging time."""

TIMES_MODULE_LIMIT: Final = 4.0
"""The same for a superchip module, which contains a CPU and may contain a second GPU."""

CEILING_WATTS: Final = 5000.0
"""The maximum power if no limit is known. The highest known limit is 2900 W (GB300 module)."""


def known_limit_mw(milliwatts: int | None) -> int | None:
    """Return the limit in mW, or None if it is unknown. Some cards report an unknown limit as 0 or -1."""
    return None if milliwatts in (None, 0, NOT_AVAILABLE) else milliwatts


def check_power(milliwatts: int, limit_mw: int | None, times_limit: float = TIMES_LIMIT) -> float:
    """Return the power in watts. Raises DeviceError if it is 0, "not available" or above the maximum."""
    if milliwatts == 0:
        raise DeviceError("power of 0 W is impossible", ZERO_POWER)
    if milliwatts == NOT_AVAILABLE:
        raise DeviceError("the driver returned no value", NOT_A_SAMPLE)
    most_milliwatts = times_limit * limit_mw if limit_mw else 1000 * CEILING_WATTS
    if milliwatts > most_milliwatts:
        text = f"power of {milliwatts / 1000:g} W is above the maximum of {most_milliwatts / 1000:g} W"
        raise DeviceError(text, POWER_ABOVE_LIMIT)
    return milliwatts / 1000


def rounded(value: float, steps_per_unit: int) -> float | None:
    """Return the value rounded to whole steps, or None if it is NaN, infinite or negative."""
    if not isfinite(value * steps_per_unit) or value < 0:
        return None
    return round(value * steps_per_unit) / steps_per_unit
