"""GPUs are read by an exporter that may not run real-time threads."""

from collections.abc import Sequence
from contextlib import ExitStack

from tests.fake_nvml import FakeDriver
from tests.llem_exporter.page import scrape
from tests.servers import Exporter, wait_until


class OrdinaryExporter(Exporter):
    """An exporter without the right to real-time threads, whatever this process may do."""

    def _command(self) -> Sequence[str]:
        unprivileged = ["setpriv", "--bounding-set=-sys_nice", "--inh-caps=-sys_nice"]
        return ["prlimit", "--rtprio=0", "--", *unprivileged, *super()._command()]


def test_gpus_are_read_without_the_right_to_real_time_threads(driver: FakeDriver, servers: ExitStack) -> None:
    """Without permission for real-time threads, every GPU has power, and the log is empty."""
    args = ("--no-collector.zeus", "--no-collector.codecarbon")
    exporter = servers.enter_context(OrdinaryExporter(env=driver.env, args=args))
    wait_until(
        lambda: len(scrape(exporter).labels("llem_gpu_power_watts")) == driver.gpu_count, "power of every GPU"
    )
    assert "WARNING" not in exporter.log()
