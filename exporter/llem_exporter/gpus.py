"""The GPUs to sample: those of this machine, or those of a replayed trace."""

from collections.abc import Collection, Iterable, Sequence
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
"""How long to wait at the start for all GPUs. After that, start with those that can be read."""

_POLL_SECONDS: Final = 0.1
_REPLAY: Final = f"without a GPU, replay a trace: --replay {replay.DEMO}"


def nvml_gpus(
    settings: "Settings", clock: WallClock, observers: Observers, pause_s: float, *, use_zeus: bool
) -> list[GpuSampler]:
    """Return a sampler for each GPU that may be wanted; none is opened yet. Raises ConfigError."""
    try:
        count = call(None, count_gpus, settings.driver_timeout_ms / 1000)
    except ConfigError as exc:
        raise ConfigError(f"{exc}; {_REPLAY}") from exc
    gpus: list[GpuSampler] = []

    def opened() -> set[str]:
        return {gpu.device.info.uuid for gpu in gpus}

    def all_lost() -> bool:
        return all(gpu.is_lost or not gpu.is_open for gpu in gpus if not gpu.last_read.is_set())

    for index in _indices(settings.gpus, count):
        device = NvmlDevice(index, count, opened, all_lost)
        counter = ZeusCounter(device) if use_zeus else None
        gpus.append(_sampled(device, counter, settings, clock, observers, pause_s))
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

    While a wanted GPU is missing, the GPUs that could not be opened stay: one of them may be the wanted one.
    """
    end_s = monotonic() + timeout_s
    silent = sampler.wait_first(min(OTHERS_SECONDS, timeout_s))
    while silent and not any(_is_wanted(gpu, wanted) for gpu in sampler.gpus) and monotonic() < end_s:
        silent = sampler.wait_first(min(_POLL_SECONDS, end_s - monotonic()))
    opened = [gpu.device for gpu in sampler.gpus if gpu.is_open]
    missing = set(wanted).difference(*map(_names, opened))
    if missing and len(opened) == len(sampler.gpus):
        raise _unknown(min(missing), [device.info for device in opened])
    unwanted = [gpu for gpu in sampler.gpus if not _is_wanted(gpu, wanted)]
    if wanted:
        sampler.remove([gpu for gpu in unwanted if gpu.is_open or not missing])
    if not any(gpu.is_open for gpu in sampler.gpus):
        raise ConfigError(f"no GPU can be opened: {_reasons(sampler.gpus, silent, timeout_s)}; {_REPLAY}")


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


def _indices(wanted: Collection[str], count: int) -> Sequence[int]:
    """Return the indices of the GPUs that may be wanted: all of them, unless they are wanted by index."""
    if count == 0:
        raise ConfigError(f"NVML finds no GPU; {_REPLAY}")
    by_index = sorted({int(name) for name in wanted if name.isdecimal()})
    if by_index and by_index[-1] >= count:
        raise ConfigError(
            f"GPU {by_index[-1]} not found: the number of GPUs is {count}, and the first has index 0"
        )
    return by_index if wanted and all(name.isdecimal() for name in wanted) else range(count)


def _names(device: Device) -> set[str]:
    """Return the names by which a user may select a GPU."""
    return {str(device.info.index), device.info.uuid} - {""}


def _is_wanted(gpu: GpuSampler, wanted: Collection[str]) -> bool:
    """Return whether the GPU has been opened and is one of the wanted GPUs."""
    return gpu.is_open and (not wanted or not _names(gpu.device).isdisjoint(wanted))


def _reasons(gpus: Iterable[GpuSampler], silent: Collection[GpuSampler], timeout_s: float) -> str:
    """Return why each of these GPUs could not be opened."""
    reasons = {
        gpu.index: f"the driver did not answer for {timeout_s:g} s"
        if gpu in silent
        else ", ".join(gpu.ledger.errors)
        for gpu in gpus
    }
    return ", ".join(f"GPU {index} ({reason})" for index, reason in reasons.items())


def _unknown(name: str, infos: Sequence[DeviceInfo]) -> ConfigError:
    there = ", ".join(f"{info.index} ({info.uuid})" for info in infos)
    return ConfigError(f"GPU {name!r} not found; the GPUs are {there}")
