"""The /metrics page of a replayed trace on clocks moved by hand: the same to the byte, anywhere.

python -m tests.llem_exporter.golden_page > tests/golden/metrics.txt
"""

import platform
import sys
from pathlib import Path

from prometheus_client import generate_latest

from llem_core import __version__
from llem_core.backend import Backend, Candidate
from llem_exporter.collectors.gpu import LedgerCollector, new_registry
from llem_exporter.collectors.job_files import Job, Listing
from llem_exporter.collectors.jobs import JobsCollector
from llem_exporter.replay import device as replay
from llem_measure.sampling.sampler import Sampler
from llem_measure.sampling.ticks import Tick, WallClock
from tests.llem_exporter.fake_time import FakeTime

INTERVAL_MS = 100
GOLDEN = Path(__file__).parents[1] / "golden" / "metrics.txt"


def render() -> str:
    """5 s of the packaged trace, with a step of the clock after 3 s; without what is the process's own."""
    time = FakeTime()
    clock = WallClock(INTERVAL_MS, time.unix_s, time.monotonic_s)
    devices = replay.open_devices(replay.DEMO, clock.now_ms() // INTERVAL_MS * INTERVAL_MS + INTERVAL_MS)
    registry, histograms = new_registry()
    sampler = Sampler(
        devices,
        clock,
        INTERVAL_MS,
        60_000,
        observe_lateness=histograms.lateness,
        observe_call=histograms.call,
    )
    sampler.attach({device.info.uuid: device for device in devices})
    candidates = [Candidate(Backend.CODECARBON, 0.0, "not read by this exporter")]
    infos = [device.info for device in devices]
    uuid = infos[0].uuid.lower()
    listing = Listing((Job(uuid, "4711", "ada", "physics", "gpu"), Job(uuid, "4712")))
    jobs = JobsCollector(lambda _: listing, lambda: infos, monotonic_s=time.monotonic_s)
    registry.register(LedgerCollector(sampler, "replay", lambda: candidates))
    registry.register(jobs)
    for number in range(50):
        if number == 30:
            time.set_wall(1.0)
            clock.observe()
        tick_ms = (clock.now_ms() // INTERVAL_MS + 1) * INTERVAL_MS
        deadline_s = tick_ms / 1000 - clock.mapping.offset_s
        time.sleep(deadline_s - time.monotonic_s())
        for gpu in sampler.gpus:
            gpu.read(Tick(tick_ms, deadline_s))
    jobs.read()
    lines = generate_latest(registry).decode().splitlines(keepends=True)
    page = "".join(line for line in lines if "process_" not in line)
    return page.replace(platform.python_version(), "PYTHON").replace(__version__, "VERSION")


if __name__ == "__main__":
    sys.stdout.write(render())
