"""The GPUs to sample: those of this machine, or those of a replayed trace."""

from collections.abc import Callable, Collection, Iterable, Sequence
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
from llem_measure.sampling.gpu_sampler import GpuSampler, Observe
from llem_measure.sampling.ledger import MIN_PAUSE_SECONDS, GpuLedger
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


def new_sampler(settings: "Settings", clock: WallClock, observe: Observe, *, use_zeus: bool) -> Sampler:
    """Return a sampler of the GPUs that may be wanted, or of a trace. Raises ConfigError."""
    interval_ms, retention_ms = settings.interval_ms, settings.retention_ms

    def sampled(device: Device, counter: EnergyCounter | None) -> GpuSampler:
        pause_s = max(MIN_PAUSE_SECONDS, retention_ms / 1000)
        ledger = GpuLedger(Ring(retention_ms // interval_ms + 1), GAP_INTERVALS * interval_ms, pause_s)
        return GpuSampler(device, counter, ledger, clock, interval_ms, observe=observe)

    gpus: list[GpuSampler] = []
    if settings.replay is not None:
        devices = _replayed(settings.replay, settings.gpus, clock, interval_ms)
        gpus = [sampled(device, device if use_zeus and device.has_joules else None) for device in devices]
    elif settings.reads_gpus:
        for device in _unopened(settings, lambda: gpus):
            gpus.append(sampled(device, ZeusCounter(device) if use_zeus else None))
    return Sampler(gpus, clock, interval_ms)


def _unopened(settings: "Settings", gpus: Callable[[], Sequence[GpuSampler]]) -> list[NvmlDevice]:
    """Return the GPUs of this machine that may be wanted; none is opened yet. Raises ConfigError."""
    try:
        count = call(None, count_gpus, settings.driver_timeout_ms / 1000)
    except ConfigError as exc:
        raise ConfigError(f"{exc}; {_REPLAY}") from exc

    def opened() -> set[str]:
        return {gpu.device.info.uuid for gpu in gpus()}

    def all_lost() -> bool:
        return all(gpu.is_lost or not gpu.is_open for gpu in gpus() if not gpu.last_read.is_set())

    return [NvmlDevice(index, count, opened, all_lost) for index in _indices(settings.gpus, count)]


def _replayed(
    source: str, wanted: Collection[str], clock: WallClock, interval_ms: int
) -> list[replay.ReplayDevice]:
    """Return the wanted GPUs of a trace. Raises ConfigError."""
    start_ms = (clock.now_ms() // interval_ms + 1) * interval_ms
    devices = replay.open_devices(source, start_ms, lambda: clock.stepped_s)
    if unknown := set(wanted).difference(*map(_names, devices)):
        raise _unknown(min(unknown), [device.info for device in devices])
    return [device for device in devices if not wanted or not _names(device).isdisjoint(wanted)]


def wait_for_gpus(sampler: Sampler, wanted: Collection[str], timeout_s: float) -> None:
    """Wait for the first wanted GPU, and remove those that are not wanted. Raises ConfigError."""
    end_s = monotonic() + timeout_s
    silent = sampler.wait_first(min(OTHERS_SECONDS, timeout_s))
    while silent and not any(_is_wanted(gpu, wanted) for gpu in sampler.gpus) and monotonic() < end_s:
        silent = sampler.wait_first(min(_POLL_SECONDS, end_s - monotonic()))
    missing, infos = _missing(sampler, wanted), [gpu.device.info for gpu in sampler.gpus]
    if missing and all(info.uuid for info in infos):
        raise _unknown(min(missing), infos)
    if wanted:
        sampler.remove([gpu for gpu in sampler.gpus if gpu.is_open and not _is_wanted(gpu, wanted)])
        for gpu in sampler.gpus:
            if isinstance(gpu.device, NvmlDevice):
                gpu.device.wanted = wanted
        remove_unopened(sampler, wanted)
    if not any(gpu.is_open for gpu in sampler.gpus):
        raise ConfigError(f"no GPU can be opened: {_reasons(sampler.gpus, silent, timeout_s)}; {_REPLAY}")


def remove_unopened(sampler: Sampler, wanted: Collection[str]) -> None:
    """Remove the GPUs that could not be opened, unless one of them may be a wanted GPU that is missing."""
    unopened = [gpu for gpu in sampler.gpus if not gpu.is_open]
    if wanted and unopened and not _missing(sampler, wanted):
        sampler.remove(unopened)


def _missing(sampler: Sampler, wanted: Collection[str]) -> set[str]:
    """Return the names of wanted GPUs that have not been opened."""
    return set(wanted).difference(*(_names(gpu.device) for gpu in sampler.gpus if gpu.is_open))


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
