"""The GPUs to sample: those of this machine, or those of a replayed trace."""

from collections.abc import Collection, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Final

from llem_core.energy import GAP_INTERVALS
from llem_core.errors import ConfigError
from llem_exporter.replay import device as replay
from llem_measure.backends.zeus import ZeusCounter
from llem_measure.nvml.calls import call
from llem_measure.nvml.device import NvmlDevice
from llem_measure.nvml.handles import count_gpus
from llem_measure.sampling.devices import Device, DeviceInfo, EnergyCounter
from llem_measure.sampling.gpu_sampler import GpuSampler, Observers
from llem_measure.sampling.ledger import GpuLedger
from llem_measure.sampling.ring import Ring
from llem_measure.sampling.sampler import Sampler
from llem_measure.sampling.ticks import WallClock

if TYPE_CHECKING:
    from llem_exporter.exporter import Settings

NO_GPUS: Final = "none"
"""The value of --gpus for a node without GPUs, on which only CodeCarbon measures."""

OTHERS_SECONDS: Final = 2.0
"""How long the start waits for the other GPUs after one can be read."""


def nvml_gpus(
    settings: "Settings", clock: WallClock, observers: Observers, pause_s: float, *, use_zeus: bool
) -> list[GpuSampler]:
    """Return a sampler for each GPU that NVML counts; none is opened yet. Raises ConfigError."""
    try:
        count = call(None, count_gpus, settings.driver_timeout_ms / 1000)
    except ConfigError as exc:
        raise ConfigError(f"{exc}; without a GPU, replay a trace: --replay {replay.DEMO}") from exc
    gpus: list[GpuSampler] = []

    def all_lost() -> bool:
        return all(gpu.is_lost or not gpu.is_open for gpu in gpus)

    for index in range(count):
        device = NvmlDevice(index, count, lambda: {gpu.device.info.uuid for gpu in gpus}, all_lost)
        counter = ZeusCounter(device) if use_zeus else None
        gpus.append(_sampled(device, counter, settings, clock, observers, pause_s))
    by_index = {name for name in settings.gpus if name.isdecimal()}
    if settings.gpus and len(by_index) == len(settings.gpus):
        return [gpu for gpu in gpus if str(gpu.index) in by_index] or gpus
    return gpus


def replayed_gpus(
    settings: "Settings", clock: WallClock, observers: Observers, pause_s: float
) -> list[GpuSampler]:
    """Return a sampler for each GPU of a trace. Raises ConfigError."""
    start_ms = (clock.now_ms() // settings.interval_ms + 1) * settings.interval_ms
    devices = replay.open_devices(settings.replay or "", start_ms, lambda: clock.stepped_s)
    unknown = set(settings.gpus) - {name for device in devices for name in _names(device)}
    if unknown:
        raise _unknown(min(unknown), [device.info for device in devices])
    return [
        _sampled(
            device,
            device if settings.use_zeus and device.has_joules else None,
            settings,
            clock,
            observers,
            pause_s,
        )
        for device in devices
        if not settings.gpus or not _names(device).isdisjoint(settings.gpus)
    ]


def select_gpus(sampler: Sampler, wanted: Collection[str], timeout_s: float) -> None:
    """Wait for the first wanted GPU, and remove those that are not wanted. Raises ConfigError.

    GPUs that do not answer yet stay: they may be wanted ones.
    """
    end_s = monotonic() + timeout_s
    silent = sampler.wait_first(min(OTHERS_SECONDS, timeout_s))
    while silent and not any(_is_wanted(gpu.device, wanted) for gpu in sampler.gpus) and monotonic() < end_s:
        silent = sampler.wait_first(min(0.1, end_s - monotonic()))
    opened = [gpu for gpu in sampler.gpus if gpu.is_open]
    for name in wanted:
        may_come = any(
            not gpu.is_open and (str(gpu.index) == name or not name.isdecimal()) for gpu in sampler.gpus
        )
        if not may_come and not any(name in _names(gpu.device) for gpu in opened):
            raise _unknown(name, [gpu.device.info for gpu in opened])
    sampler.remove([gpu for gpu in opened if wanted and not _is_wanted(gpu.device, wanted)])
    if not any(gpu.is_open for gpu in sampler.gpus):
        hanging = f" ({len(silent)} do not answer at all)" if silent else ""
        raise ConfigError(
            f"none of the GPUs {','.join(wanted) or 'of this machine'} can be opened{hanging}; "
            f"without a GPU, replay a trace: --replay {replay.DEMO}"
        )


def _sampled(
    device: Device,
    counter: EnergyCounter | None,
    settings: "Settings",
    clock: WallClock,
    observers: Observers,
    pause_s: float,
) -> GpuSampler:
    ring = Ring(settings.retention_ms // settings.interval_ms + 1)
    ledger = GpuLedger(ring, GAP_INTERVALS * settings.interval_ms, pause_s)
    return GpuSampler(device, counter, ledger, clock, settings.interval_ms, observers=observers)


def _names(device: Device) -> set[str]:
    """Return the names by which a user may select a GPU."""
    return {str(device.info.index), device.info.uuid} - {""}


def _is_wanted(device: Device, wanted: Collection[str]) -> bool:
    return bool(device.info.uuid) and (not wanted or not _names(device).isdisjoint(wanted))


def _unknown(name: str, infos: Sequence[DeviceInfo]) -> ConfigError:
    there = ", ".join(f"{info.index} ({info.uuid})" for info in infos)
    return ConfigError(f"there is no GPU {name!r}; there are {there or 'none'}")
