"""The parts of the exporter put together: GPUs or a trace, sampler, collectors, server."""

import asyncio
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

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
from llem_exporter.collectors.sampler import HistoryPageCollector, SamplerCollector, SamplerHistograms
from llem_exporter.gpus import NO_GPUS, nvml_gpus, replayed_gpus, select_gpus
from llem_exporter.history.cursors import ScraperCursors
from llem_exporter.web.addresses import Address
from llem_exporter.web.handlers import Handlers
from llem_exporter.web.history import HistoryHandler
from llem_exporter.web.reload import LiveWebConfig
from llem_exporter.web.server import Site, serve
from llem_measure.backends.codecarbon import INSTALL
from llem_measure.backends.zeus import import_zeus
from llem_measure.nvml.errors import OUTDATED
from llem_measure.sampling.gpu_sampler import GpuSampler
from llem_measure.sampling.ledger import MIN_PAUSE_SECONDS
from llem_measure.sampling.sampler import Sampler
from llem_measure.sampling.ticks import WallClock

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


def run(settings: Settings) -> None:
    """Sample and serve until SIGTERM or SIGINT. Raises ConfigError if it cannot start."""
    _check(settings)
    config = LiveWebConfig(settings.web_config_file)
    site = Site(settings.addresses, settings.inherited, config, settings.notify_socket)
    registry = new_registry()
    zeus_failed = _import_zeus(settings)
    sampler = _sampler(settings, SamplerHistograms(registry), use_zeus=not zeus_failed)
    sampler.start()
    try:
        if settings.replay is None and settings.gpus != (NO_GPUS,):
            select_gpus(sampler, settings.gpus, settings.driver_timeout_ms / 1000)
        _serve(settings, site, sampler, registry, zeus_failed=zeus_failed)
    finally:
        sampler.stop()


def _serve(
    settings: Settings, site: Site, sampler: Sampler, registry: CollectorRegistry, *, zeus_failed: bool
) -> None:
    """Register the collectors, and serve until SIGTERM or SIGINT."""
    codecarbon, jobs = _codecarbon(settings, sampler), _jobs(settings, sampler)
    background = [collector for collector in (codecarbon, jobs) if collector]
    cursors = ScraperCursors(
        lambda: [gpu.ledger.held_numbers() for gpu in sampler.gpus],
        settings.interval_ms / 1000,
        settings.retention_ms / 1000,
        sampler.clock.monotonic_s,
    )
    backends = BackendCollector(
        sampler,
        "replay" if settings.replay else "nvml",
        partial(_codecarbon_candidate, codecarbon),
        [collector.state for collector in background],
        zeus_failed=zeus_failed,
    )
    collectors = (GpuCollector(sampler), backends, SamplerCollector(sampler), ScraperCollector(cursors))
    for collector in (*collectors, *background):
        registry.register(collector)
    beside_traces = HistoryPageCollector(GpuCollector(sampler, metrics.HISTORY_PAGE), sampler)
    history = HistoryHandler(sampler, cursors, beside_traces)
    serving = serve(
        Handlers(sampler, registry, history.answer),
        site,
        known=cursors.connections,
        on_unread=cursors.connection_reset,
        every_second=partial(_every_second, sampler, settings.retention_ms),
    )
    try:
        for collector in background:
            collector.start()
        asyncio.run(serving)
    finally:
        for collector in background:
            collector.stop()


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


def _import_zeus(settings: Settings) -> bool:
    """Import Zeus if it is wanted. Return whether it is installed and failed.

    This is done before the first tick: the import holds the GIL for at least 0.5 s.
    """
    if not settings.use_zeus or settings.replay is not None or settings.gpus == (NO_GPUS,):
        return False
    try:
        import_zeus()
    except ConfigError as exc:
        _log.warning(
            "cannot use hardware energy counters: %s. Energy is integrated from power samples instead.", exc
        )
        return find_spec("zeus") is not None
    return False


def _sampler(settings: Settings, observers: SamplerHistograms, *, use_zeus: bool) -> Sampler:
    clock = WallClock(settings.interval_ms)
    pause_s = max(MIN_PAUSE_SECONDS, settings.retention_ms / 1000)
    gpus: Sequence[GpuSampler] = ()
    if settings.replay is not None:
        gpus = replayed_gpus(settings, clock, observers, pause_s)
    elif settings.gpus != (NO_GPUS,):
        use_zeus = use_zeus and settings.use_zeus and find_spec("zeus") is not None
        gpus = nvml_gpus(settings, clock, observers, pause_s, use_zeus=use_zeus)
    return Sampler(gpus, clock, settings.interval_ms)


def _every_second(sampler: Sampler, retention_ms: int) -> None:
    """Follow the wall clock. Raises ConfigError after a driver upgrade, which needs a new process."""
    if step_s := sampler.clock.observe():
        _log.warning("the wall clock was stepped by %+.3f s", step_s)
        if step_s < 0 and sampler.gpus:
            pause_s = min(-step_s, max(MIN_PAUSE_SECONDS, retention_ms / 1000))
            _log.warning(
                "the clock was set back. /history adds no samples for %.0f s, so that its timestamps ascend. "
                "Counters are not affected.",
                pause_s,
            )
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
        return all(gpu.is_open and (shown.fresh or not shown.was_read) for gpu, shown in states_of(sampler))

    return CodeCarbonCollector(gpu_indices, settings.country_iso_code, gpus_fresh=gpus_fresh)


def _codecarbon_candidate(codecarbon: CodeCarbonCollector | None) -> Candidate:
    if codecarbon is None:
        return Candidate(Backend.CODECARBON, 0.0, "not measured by this exporter")
    return codecarbon.candidate


def _jobs(settings: Settings, sampler: Sampler) -> JobsCollector | None:
    if settings.jobs_dir is None:
        return None
    return JobsCollector(
        partial(read_jobs, settings.jobs_dir), lambda: [gpu.device.info for gpu in sampler.gpus]
    )
