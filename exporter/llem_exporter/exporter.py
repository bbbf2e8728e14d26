"""The parts of the exporter put together: GPUs or a trace, sampler, collectors, server."""

import asyncio
import logging
import socket
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics

from llem_core import metrics
from llem_core.backend import Backend, Candidate
from llem_core.errors import ConfigError
from llem_exporter.collectors.backends import BackendCollector
from llem_exporter.collectors.codecarbon import CodeCarbonCollector
from llem_exporter.collectors.gpu import GpuCollector, states_of
from llem_exporter.collectors.history import ScraperCollector
from llem_exporter.collectors.job_files import read_jobs
from llem_exporter.collectors.jobs import JobsCollector
from llem_exporter.collectors.sampler import SamplerCollector, SamplerHistograms
from llem_exporter.gpus import NO_GPUS, new_sampler, remove_unopened, wait_for_gpus
from llem_exporter.history.cursors import ScraperCursors
from llem_exporter.web.addresses import Address, listen
from llem_exporter.web.handlers import routes
from llem_exporter.web.history import HistoryHandler
from llem_exporter.web.limits import Connections, max_connections
from llem_exporter.web.reload import LiveWebConfig
from llem_exporter.web.server import serve
from llem_measure.backends.emissions_tracker import INSTALL
from llem_measure.backends.zeus import import_zeus
from llem_measure.nvml.errors import OUTDATED
from llem_measure.sampling.ledger import MIN_PAUSE_SECONDS, NO_READING
from llem_measure.sampling.sampler import Sampler
from llem_measure.sampling.ticks import WallClock

NO_CODECARBON: Final = Candidate(Backend.CODECARBON, 0.0, "not measured by this exporter")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """The user's choices. `gpus` are indices or UUIDs; empty means all, "none" means none.

    If `inherited` sockets are given, they are served in place of `addresses`.
    """

    addresses: tuple[Address, ...] = (Address("127.0.0.1", 9955),)
    inherited: tuple[socket.socket, ...] | None = None
    notify_socket: str | None = None
    web_config_file: Path | None = None
    interval_ms: int = 100
    retention_ms: int = 900_000
    gpus: tuple[str, ...] = ()
    use_zeus: bool = True
    use_codecarbon: bool = True
    country_iso_code: str | None = None
    replay: str | None = None
    jobs_dir: str | None = None
    driver_timeout_ms: int = 60_000

    @property
    def reads_gpus(self) -> bool:
        """Whether GPUs of this machine are read."""
        return self.replay is None and self.gpus != (NO_GPUS,)


def run(settings: Settings) -> None:
    """Sample and serve until SIGTERM or SIGINT. Raises ConfigError if it cannot start."""
    _check(settings)
    config = LiveWebConfig(settings.web_config_file)
    registry = new_registry()
    has_zeus, zeus_failed = _import_zeus(settings)
    clock = WallClock(settings.interval_ms)
    sampler = new_sampler(settings, clock, SamplerHistograms(registry).add, use_zeus=has_zeus)
    sampler.start()
    try:
        if settings.reads_gpus:
            wait_for_gpus(sampler, settings.gpus, settings.driver_timeout_ms / 1000)
        _serve(settings, config, sampler, registry, zeus_failed=zeus_failed)
    finally:
        sampler.stop()


def _serve(
    settings: Settings,
    config: LiveWebConfig,
    sampler: Sampler,
    registry: CollectorRegistry,
    *,
    zeus_failed: bool,
) -> None:
    """Register the collectors, and serve until SIGTERM or SIGINT."""
    codecarbon, jobs = _codecarbon(settings, sampler), _jobs(settings, sampler)
    background = [collector for collector in (codecarbon, jobs) if collector]
    backends = BackendCollector(
        sampler,
        "replay" if settings.replay else "nvml",
        lambda: codecarbon.candidate if codecarbon else NO_CODECARBON,
        [collector.state for collector in background],
        zeus_failed=zeus_failed,
    )
    for collector in (GpuCollector(sampler), backends, SamplerCollector(sampler), *background):
        registry.register(collector)
    try:
        for collector in background:
            collector.start()
        asyncio.run(_pages(settings, config, sampler, registry))
    finally:
        for collector in background:
            collector.stop()


def _pages(
    settings: Settings, config: LiveWebConfig, sampler: Sampler, registry: CollectorRegistry
) -> Coroutine[Any, Any, None]:
    """Return the server of the pages, not started."""
    cursors = ScraperCursors(
        lambda: [gpu.ledger.ring for gpu in sampler.gpus],
        settings.interval_ms / 1000,
        settings.retention_ms / 1000,
        sampler.clock.monotonic_s,
    )
    registry.register(ScraperCollector(cursors))
    beside_traces = CollectorRegistry()
    for page_of in (GpuCollector, SamplerCollector):
        beside_traces.register(page_of(sampler, metrics.HISTORY_PAGE))
    history = HistoryHandler(sampler, cursors, beside_traces)
    return serve(
        routes(sampler, registry, history.answer),
        config,
        Connections(max_connections(), cursors.connections, cursors.connection_reset),
        lambda: settings.inherited or [listen(address) for address in settings.addresses],
        partial(_every_second, sampler, settings),
        settings.notify_socket,
    )


def new_registry() -> CollectorRegistry:
    """Return a registry with the metrics of this process, without `_created` series."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


def _check(settings: Settings) -> None:
    """Raise ConfigError if nothing would be measured."""
    if NO_GPUS not in settings.gpus:
        return
    if settings.gpus != (NO_GPUS,):
        raise ConfigError(
            f"--gpus must be either {NO_GPUS!r} or a list of GPUs, not {','.join(settings.gpus)!r}"
        )
    if settings.replay is not None:
        raise ConfigError(f"--gpus {NO_GPUS} cannot be combined with --replay")
    if not settings.use_codecarbon:
        raise ConfigError(f"--gpus {NO_GPUS} needs CodeCarbon; remove --no-collector.codecarbon")
    if find_spec("codecarbon") is None:
        raise ConfigError(f"--gpus {NO_GPUS} needs CodeCarbon; {INSTALL}")


def _import_zeus(settings: Settings) -> tuple[bool, bool]:
    """Import Zeus if it is wanted. Return whether to read counters, and whether Zeus is installed and fails.

    This is done before the first tick: the import holds the GIL for at least 0.5 s.
    """
    if not (settings.use_zeus and settings.reads_gpus):
        return settings.use_zeus, False
    try:
        import_zeus()
    except ConfigError as exc:
        _log.warning(
            "cannot use hardware energy counters: %s. Energy is integrated from power samples instead.", exc
        )
        return False, find_spec("zeus") is not None
    return True, False


def _every_second(sampler: Sampler, settings: Settings) -> None:
    """Follow the wall clock, and GPUs that open late. Raises ConfigError after a driver upgrade."""
    if step_s := sampler.clock.observe():
        _log.warning("the wall clock was stepped by %+.3f s", step_s)
        if step_s < 0 and sampler.gpus:
            pause_s = min(-step_s, max(MIN_PAUSE_SECONDS, settings.retention_ms / 1000))
            _log.warning(
                "the clock was set back. /history adds no samples for %.0f s, so that its timestamps ascend. "
                "Counters are not affected.",
                pause_s,
            )
    remove_unopened(sampler, settings.gpus)
    if any(OUTDATED in gpu.ledger.errors for gpu in sampler.gpus):
        raise ConfigError(
            "the NVIDIA driver was replaced while the exporter was running; restart the exporter"
        )


def _codecarbon(settings: Settings, sampler: Sampler) -> CodeCarbonCollector | None:
    """Return CodeCarbon's collector if it is wanted and installed.

    A replayed trace has no node to measure.
    """
    if not settings.use_codecarbon or settings.replay is not None or find_spec("codecarbon") is None:
        return None

    def gpu_indices() -> list[int]:
        return [gpu.index for gpu in sampler.gpus if gpu.is_open]

    def gpus_fresh() -> bool:
        # CodeCarbon may be able to read a GPU that was never read here.
        return all(
            gpu.is_open and (shown.fresh or shown.reading is NO_READING) for gpu, shown in states_of(sampler)
        )

    return CodeCarbonCollector(gpu_indices, settings.country_iso_code, gpus_fresh=gpus_fresh)


def _jobs(settings: Settings, sampler: Sampler) -> JobsCollector | None:
    if settings.jobs_dir is None:
        return None
    read = partial(read_jobs, settings.jobs_dir)
    return JobsCollector(read, lambda: [gpu.device.info for gpu in sampler.gpus])
