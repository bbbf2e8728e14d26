"""The /metrics page of a replayed trace on fake clocks, which has the same bytes on every machine.

python -m tests.llem_exporter.golden_page > tests/golden/metrics.txt
"""

import platform
import sys
from pathlib import Path

from prometheus_client import generate_latest

from llem_core import __version__
from llem_exporter.collectors.backends import BackendCollector
from llem_exporter.collectors.gpu import GpuCollector
from llem_exporter.collectors.job_files import Job, Listing
from llem_exporter.collectors.jobs import JobsCollector
from llem_exporter.collectors.sampler import SamplerCollector, SamplerHistograms
from llem_exporter.exporter import NO_CODECARBON, Settings, new_registry
from llem_exporter.gpus import new_sampler
from llem_measure.sampling.ticks import Tick, WallClock
from tests.llem_measure.fake_time import FakeTime

INTERVAL_MS = 100
GOLDEN = Path(__file__).parents[1] / "golden" / "metrics.txt"


def render() -> str:
    """Return the page after 5 s of the packaged trace, with a step of the clock after 3 s.

    The metrics of the process are left out.
    """
    time = FakeTime()
    clock = WallClock(INTERVAL_MS, time.unix_s, time.monotonic_s)
    registry = new_registry()
    settings = Settings(replay="demo", retention_ms=60_000)
    sampler = new_sampler(settings, clock, SamplerHistograms(registry).add, use_zeus=True)
    infos = [gpu.device.info for gpu in sampler.gpus]
    uuid = infos[0].uuid.lower()
    listing = Listing((Job(uuid, "4711", "ada", "physics", "gpu"), Job(uuid, "4712")))
    jobs = JobsCollector(lambda _: listing, lambda: infos, monotonic_s=time.monotonic_s)
    registry.register(GpuCollector(sampler))
    registry.register(BackendCollector(sampler, "replay", lambda: NO_CODECARBON, [jobs.state]))
    registry.register(SamplerCollector(sampler))
    registry.register(jobs)
    for number in range(50):
        if number == 30:
            time.set_wall(1.0)
            clock.observe()
        tick_ms = (clock.now_ms() // INTERVAL_MS + 1) * INTERVAL_MS
        deadline_s = tick_ms / 1000 - clock.mapping.offset_s
        time.sleep(deadline_s - time.monotonic_s())
        sampler.read(sampler.gpus, Tick(tick_ms, deadline_s))
    jobs.read()
    lines = generate_latest(registry).decode().splitlines(keepends=True)
    page = "".join(line for line in lines if "process_" not in line)
    return page.replace(platform.python_version(), "PYTHON").replace(__version__, "VERSION")


if __name__ == "__main__":
    sys.stdout.write(render())
