"""The parts put together: GPUs or a trace, sampler, Zeus, pages, server."""

import asyncio
import gc
import logging
import socket
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, TypeVar

from llem_core.backend import Backend, Candidate
from llem_core.errors import ConfigError
from llem_exporter.collectors.codecarbon import Carbon
from llem_exporter.collectors.gpu import Histograms, LedgerCollector, new_registry
from llem_exporter.collectors.jobs import Jobs
from llem_exporter.counters import Counters
from llem_exporter.history.cursors import Handover
from llem_exporter.history.page import HistoryPage
from llem_exporter.openings import Openings, count_within, names_of
from llem_exporter.replay import device as replay
from llem_exporter.web.addresses import Address
from llem_exporter.web.handlers import Handlers
from llem_exporter.web.reload import LiveWebConfig
from llem_exporter.web.server import Site, serve
from llem_measure.nvml import device as nvml_device
from llem_measure.sampling.devices import Device
from llem_measure.sampling.sampler import Sampler
from llem_measure.sampling.ticks import WallClock

NO_GPUS: Final = "none"
"""In place of GPUs: a node that has none, of which CodeCarbon alone is published."""

_NO_CODECARBON: Final = "codecarbon is not installed; pip install 'llem-energy[codecarbon]'"

AnyDevice = TypeVar("AnyDevice", bound=Device)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user chose. `gpus` are indices or UUIDs, empty for all, or "none".

    `inherited` sockets are served in place of `addresses`.
    """

    addresses: tuple[Address, ...] = (Address("127.0.0.1", 9955),)
    inherited: tuple[socket.socket, ...] | None = None
    notify_socket: str | None = None
    web_config_file: Path | None = None
    interval_ms: int = 100
    retention_ms: int = 900_000
    max_samples: int | None = None
    gpus: tuple[str, ...] = ()
    use_zeus: bool = True
    use_codecarbon: bool = True
    country_iso_code: str | None = None
    replay: str | None = None
    jobs_dir: str | None = None
    driver_timeout_ms: int = 60_000


def run(settings: Settings) -> None:
    """Sample and serve until SIGTERM or SIGINT. Raises ConfigError where that cannot begin."""
    _refuse(settings)
    config = LiveWebConfig(settings.web_config_file)
    site = Site(settings.addresses, settings.inherited, config, settings.notify_socket)
    clock = WallClock(settings.interval_ms)
    devices, openings = _open(settings, clock)
    registry, histograms = new_registry()
    sampler = _sampler(settings, devices, clock, histograms)
    candidates = {Backend.CODECARBON: Candidate(Backend.CODECARBON, 0.0, "not asked yet")}
    missing = (lambda: openings.missing) if openings else (lambda: 0)
    carbon = _carbon(settings, sampler, missing, candidates)
    handover = Handover(
        lambda: [gpu.ledger for gpu in sampler.gpus],
        clock.now_ms(),
        settings.retention_ms / 1000,
        clock.monotonic_s,
    )
    jobs = _jobs(settings, sampler)
    others = [part.add_to for part in (handover, carbon, jobs, openings) if part]
    source = "replay" if settings.replay else "nvml"
    counters = Counters() if openings and settings.use_zeus else None
    zeus_fails = (lambda: counters.failing) if counters else (lambda: False)
    registry.register(LedgerCollector(sampler, source, candidates, others, missing, zeus_fails))
    if settings.replay and settings.use_zeus:
        played = (device for device in devices if isinstance(device, replay.ReplayDevice))
        sampler.attach({device.info.uuid: device for device in played if device.has_joules})
    if counters:
        counters.import_zeus()
    gc.collect()
    gc.freeze()  # what is there now stays, and is not looked through again, for which all threads would wait
    sampler.start()
    if carbon:
        carbon.start()
    if jobs:
        jobs.start()
    if openings:
        _complete(sampler, openings, devices, counters)

    def every_second() -> None:
        if step_s := clock.observe():
            _log.warning("the wall clock was set by %+.3f s", step_s)
        sampler.look()
        _end_where_outdated(sampler)

    try:
        history = HistoryPage(sampler, handover, settings.max_samples)
        serving = serve(
            Handlers(sampler, registry, history.answer),
            site,
            known=handover.connections,
            on_unread=handover.unread,
            every_second=every_second,
        )
        asyncio.run(serving)
    finally:
        sampler.stop()
        if jobs:
            jobs.stop()
        if carbon:
            carbon.stop()


def _sampler(
    settings: Settings, devices: Sequence[Device], clock: WallClock, observed: Histograms
) -> Sampler:
    return Sampler(
        devices,
        clock,
        settings.interval_ms,
        settings.retention_ms,
        observe_lateness=observed.lateness,
        observe_call=observed.call,
    )


def _end_where_outdated(sampler: Sampler) -> None:
    """Raises ConfigError after an upgrade of the driver, which only a new process can read."""
    if any(nvml_device.OUTDATED in gpu.ledger.errors for gpu in sampler.gpus):
        raise ConfigError(
            "the NVIDIA driver was replaced while this process ran, which has the old library; start it again"
        )


def _refuse(settings: Settings) -> None:
    """Raises ConfigError where there would be nothing to read."""
    if NO_GPUS not in settings.gpus:
        return
    if settings.gpus != (NO_GPUS,):
        raise ConfigError(f"--gpus is {NO_GPUS!r} or names GPUs, not {','.join(settings.gpus)!r}")
    if settings.replay is not None:
        raise ConfigError(f"--replay plays GPUs, and --gpus {NO_GPUS} reads none; leave one of them out")
    if not settings.use_codecarbon:
        raise ConfigError(
            f"--gpus {NO_GPUS} reads CodeCarbon alone, which --no-collector.codecarbon leaves out"
        )
    if find_spec("codecarbon") is None:
        raise ConfigError(f"--gpus {NO_GPUS} reads CodeCarbon alone; {_NO_CODECARBON}")


def selected(
    devices: Sequence[AnyDevice], wanted: Collection[str], unopened: Collection[int] = ()
) -> list[AnyDevice]:
    """The devices whose index or UUID is wanted; all where none is. Raises ConfigError for one not here.

    It may be one of the `unopened` indices, whose UUIDs nobody knows.
    """
    names = [names_of(device) for device in devices]
    for name in wanted:
        later = int(name) in unopened if name.isdecimal() else bool(unopened)
        if not later and not any(name in both for both in names):
            there = ", ".join(f"{device.info.index} ({device.info.uuid})" for device in devices)
            raise ConfigError(f"no GPU {name!r} here; there are {there}")
    return [
        device
        for device, both in zip(devices, names, strict=True)
        if not wanted or not both.isdisjoint(wanted)
    ]


def _open(settings: Settings, clock: WallClock) -> tuple[Sequence[Device], Openings | None]:
    """The GPUs that answer now; of a node's own GPUs also those that are still being opened."""
    if settings.gpus == (NO_GPUS,):
        return [], None
    if settings.replay is not None:
        start_ms = (clock.now_ms() // settings.interval_ms + 1) * settings.interval_ms
        played = replay.open_devices(settings.replay, start_ms, lambda: clock.stepped_s)
        return selected(played, settings.gpus), None
    try:
        count = count_within(nvml_device.count_gpus, settings.driver_timeout_ms / 1000)
        openings = Openings(count, settings.gpus, nvml_device.open_gpu)
        opened = openings.opened(answer_s=settings.driver_timeout_ms / 1000)
        devices = selected(opened, settings.gpus, openings.unopened)
        if not devices:
            silent = f" ({openings.silent} do not answer at all)" if openings.silent else ""
            raise ConfigError(
                f"NVML counts {count} GPUs and opens none of {','.join(settings.gpus) or 'them'}{silent}"
            )
    except ConfigError as exc:
        raise ConfigError(f"{exc}; without a GPU, play a trace: --replay {replay.DEMO}") from exc
    return devices, openings


def _carbon(
    settings: Settings, sampler: Sampler, missing: Callable[[], int], candidates: dict[Backend, Candidate]
) -> Carbon | None:
    """CodeCarbon's counters, where they are wanted; a replayed trace has no node to count."""
    if not settings.use_codecarbon or settings.replay is not None:
        return None
    if find_spec("codecarbon") is None:
        candidates[Backend.CODECARBON] = Candidate(Backend.CODECARBON, 0.0, _NO_CODECARBON)
        return None

    def on_state(candidate: Candidate) -> None:
        candidates[Backend.CODECARBON] = candidate

    def gpu_indices() -> list[int]:
        return [gpu.device.info.index for gpu in sampler.gpus]

    def gpus_fresh() -> bool:
        now = sampler.clock.now_ms(), sampler.clock.monotonic_s()
        pages = [gpu.ledger.page(*now) for gpu in sampler.gpus]
        # Of a GPU that was never read, CodeCarbon may read what the sampler cannot.
        return not missing() and all(page.fresh or page.read_s == float("-inf") for page in pages)

    return Carbon(gpu_indices, settings.country_iso_code, on_state, gpus_fresh=gpus_fresh)


def _jobs(settings: Settings, sampler: Sampler) -> Jobs | None:
    if settings.jobs_dir is None:
        return None
    return Jobs.of(settings.jobs_dir, lambda: [gpu.device.info for gpu in sampler.gpus])


def _complete(
    sampler: Sampler, openings: Openings, opened: Sequence[Device], counters: Counters | None
) -> None:
    """Read the counters of all GPUs, and the GPUs that open later, as soon as they answer."""

    def join(device: Device) -> None:
        gpu = sampler.add(device)
        if counters:
            counters.find(gpu)

    if counters:
        counters.find_all(sampler.gpus)
    openings.join_others(opened, join)
