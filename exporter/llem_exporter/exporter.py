"""The parts put together: GPUs or a trace, sampler, Zeus, pages, server."""

import asyncio
import logging
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final, TypeVar

from llem_core.backend import Backend, Candidate
from llem_core.errors import ConfigError
from llem_exporter import replay
from llem_exporter.carbon import Carbon
from llem_exporter.collector import LedgerCollector, new_registry
from llem_exporter.devices import Device, EnergyCounter
from llem_exporter.energy_backends import nvml_device, zeus
from llem_exporter.handover import Handover
from llem_exporter.history_page import HistoryPage
from llem_exporter.sampler import Sampler
from llem_exporter.server import Pages, serve
from llem_exporter.ticks import WallClock

NO_GPUS: Final = "none"
"""In place of GPUs: a node that has none, of which CodeCarbon alone is published."""

AnyDevice = TypeVar("AnyDevice", bound=Device)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user chose. `gpus` are indices or UUIDs, empty for all, or "none"; `host` None is everywhere."""

    host: str | None = "127.0.0.1"
    port: int = 9955
    interval_ms: int = 100
    retention_ms: int = 900_000
    max_samples: int | None = None
    gpus: tuple[str, ...] = ()
    use_zeus: bool = True
    use_codecarbon: bool = True
    country_iso_code: str | None = None
    replay: str | None = None


def run(settings: Settings) -> None:
    """Sample and serve until SIGTERM or SIGINT. Raises ConfigError where that cannot begin."""
    clock = WallClock(settings.interval_ms)
    devices, counters = _open(settings, clock)
    registry, histograms = new_registry()
    sampler = Sampler(
        devices,
        clock,
        settings.interval_ms,
        settings.retention_ms,
        observe_lateness=histograms.lateness,
        observe_call=histograms.call,
    )
    candidates = _candidates(devices)
    carbon = _carbon(settings, devices, candidates)
    ledgers = [gpu.ledger for gpu in sampler.gpus]
    handover = Handover(ledgers, clock.now_ms(), settings.retention_ms / 1000, clock.monotonic_s)
    others = [handover.add_to, *([carbon.add_to] if carbon else [])]
    source = "replay" if settings.replay else "nvml"
    registry.register(LedgerCollector(sampler, source, candidates, others))
    sampler.start()
    if carbon:
        carbon.start()
    if counters is None:
        # Only now: this import holds the interpreter's lock for half a second.
        threading.Thread(target=_find_zeus, args=(sampler, candidates), name="zeus", daemon=True).start()
    else:
        _use_counters(sampler, candidates, counters)

    def watch_clock() -> None:
        if step_s := clock.observe():
            _log.warning("the wall clock was set by %+.3f s", step_s)

    try:
        pages = Pages(sampler, registry, HistoryPage(sampler, handover, settings.max_samples))
        asyncio.run(serve(pages.application(), settings.host, settings.port, watch_clock))
    finally:
        sampler.stop()
        if carbon:
            carbon.stop()


def selected(devices: Sequence[AnyDevice], wanted: Collection[str]) -> list[AnyDevice]:
    """The devices whose index or UUID is wanted; all where none is. Raises ConfigError for one not here."""
    names = [{str(device.info.index), device.info.uuid} for device in devices]
    for name in wanted:
        if not any(name in both for both in names):
            there = ", ".join(f"{device.info.index} ({device.info.uuid})" for device in devices)
            raise ConfigError(f"no GPU {name!r} here; there are {there}")
    return [
        device
        for device, both in zip(devices, names, strict=True)
        if not wanted or not both.isdisjoint(wanted)
    ]


def _open(
    settings: Settings, clock: WallClock
) -> tuple[Sequence[Device], Mapping[str, EnergyCounter] | None]:
    """The GPUs, and their energy counters; None where Zeus is yet to be asked for them."""
    if settings.gpus == (NO_GPUS,):
        return [], {}
    if settings.replay is None:
        try:
            return selected(nvml_device.open_devices(), settings.gpus), None if settings.use_zeus else {}
        except ConfigError as exc:
            raise ConfigError(f"{exc}; without a GPU, play a trace: --replay {replay.DEMO}") from exc
    start_ms = (clock.now_ms() // settings.interval_ms + 1) * settings.interval_ms
    played = selected(replay.open_devices(settings.replay, start_ms), settings.gpus)
    return played, {device.info.uuid: device for device in played if device.has_joules and settings.use_zeus}


def _candidates(devices: Sequence[Device]) -> dict[Backend, Candidate]:
    """What is known of the backends before Zeus was asked."""
    powerless = [device.info.index for device in devices if device.info.power_source == "none"]
    reason = f"no power on GPU {', '.join(map(str, powerless))}" if powerless else "reads power of every GPU"
    if not devices:
        reason = "no GPU is read"
    return {
        Backend.ZEUS: Candidate(Backend.ZEUS, 0.0, "not asked yet"),
        Backend.NVML: Candidate(Backend.NVML, float(bool(devices) and not powerless), reason),
        Backend.CODECARBON: Candidate(Backend.CODECARBON, 0.0, "not asked yet"),
    }


def _carbon(
    settings: Settings, devices: Sequence[Device], candidates: dict[Backend, Candidate]
) -> Carbon | None:
    """CodeCarbon's counters, where they are wanted; a replayed trace has no node to count."""
    if not settings.use_codecarbon or settings.replay is not None:
        return None
    if find_spec("codecarbon") is None:
        reason = "codecarbon is not installed; pip install 'llem-energy[codecarbon]'"
        candidates[Backend.CODECARBON] = Candidate(Backend.CODECARBON, 0.0, reason)
        return None

    def on_state(candidate: Candidate) -> None:
        candidates[Backend.CODECARBON] = candidate

    return Carbon([device.info.index for device in devices], settings.country_iso_code, on_state)


def _find_zeus(sampler: Sampler, candidates: dict[Backend, Candidate]) -> None:
    """Import Zeus, and read its counters from now on; the log says why where there are none."""
    try:
        counters = zeus.open_counters({gpu.device.info.uuid for gpu in sampler.gpus})
    except ConfigError as exc:
        _log.warning("no hardware energy counters: %s", exc)
        candidates[Backend.ZEUS] = Candidate(Backend.ZEUS, 0.0, str(exc))
    else:
        _use_counters(sampler, candidates, counters)
        _log.info("hardware energy counters: %s", candidates[Backend.ZEUS].reason)


def _use_counters(
    sampler: Sampler, candidates: dict[Backend, Candidate], counters: Mapping[str, EnergyCounter]
) -> None:
    sampler.attach(counters)
    missing = [gpu.device.info.index for gpu in sampler.gpus if gpu.device.info.uuid not in counters]
    reason = f"none on GPU {', '.join(map(str, missing))}" if missing else "one on every GPU"
    candidates[Backend.ZEUS] = Candidate(Backend.ZEUS, float(bool(sampler.gpus) and not missing), reason)
