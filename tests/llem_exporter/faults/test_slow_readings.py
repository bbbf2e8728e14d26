"""How often the slow readings are made of a GPU of which nothing else can be read."""

import threading
from itertools import pairwise

from llem_core.errors import DeviceError
from llem_measure.sampling.ledger import FRESH_SECONDS
from tests.llem_measure.test_sampler import Rig


def test_slow_readings_that_come_alone_never_expire() -> None:
    """Without power, slow readings expire after a second, and are read more often than that."""
    rig, stopped, times_s = Rig(), threading.Event(), list[float]()

    def denied(_: int) -> float:
        raise DeviceError("denied", "NVML_ERROR_NO_PERMISSION")

    def note() -> None:
        times_s.append(rig.time.monotonic_s())
        if len(times_s) == 20:
            stopped.set()

    rig.device.watts_at, rig.device.on_status = denied, note
    rig.gpu.run(stopped)
    assert max(later - earlier for earlier, later in pairwise(times_s)) <= FRESH_SECONDS - 0.2
