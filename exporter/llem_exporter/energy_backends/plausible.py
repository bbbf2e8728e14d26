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


def plausible(read_milliwatts: Callable[[], int], most_milliwatts: float | None) -> Callable[[], int]:
    """A reader that raises DeviceError for a reading that no GPU has: 0, not available, above the most."""

    def read() -> int:
        milliwatts = read_milliwatts()
        if milliwatts == 0:
            raise DeviceError("it reads 0 W, and no GPU that answers draws nothing", ZERO_POWER)
        if milliwatts == NOT_AVAILABLE:
            raise DeviceError("the driver has no value", NOT_A_SAMPLE)
        if most_milliwatts is not None and milliwatts > most_milliwatts:
            text = f"it reads {milliwatts / 1000:g} W, more than {most_milliwatts / 1000:g} W cannot be"
            raise DeviceError(text, POWER_ABOVE_LIMIT)
        return milliwatts

    return read
