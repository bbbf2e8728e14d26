"""GPUs opened each in its own thread, again and again until it answers: one that hangs stops no other."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from queue import Empty, SimpleQueue
from time import monotonic, sleep
from typing import Final

from llem_core import metrics
from llem_core.errors import ConfigError, DeviceError
from llem_exporter.collectors.builder import MetricBuilder
from llem_measure.sampling.devices import Device

PATIENCE_SECONDS: Final = 2.0
"""How long the start waits for all GPUs, where some have answered."""

ANSWER_SECONDS: Final = 60.0
"""How long it waits for the driver to answer at all: one that loads with eight GPUs takes tens of seconds."""

RETRY_SECONDS: Final = 5.0

OPEN_TOO_SLOW: Final = "OPEN_TOO_SLOW"
"""Our name for a GPU whose opening does not return, beside the driver's names of errors."""

_log = logging.getLogger(__name__)


def count_within(count_gpus: Callable[[], int], patience_s: float) -> int:
    """How many GPUs there are. Raises ConfigError, its own or where a driver that hangs does not answer."""
    answers: SimpleQueue[int | ConfigError] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(count_gpus())
        except ConfigError as exc:
            answers.put(exc)

    threading.Thread(target=ask, name="count-gpus", daemon=True).start()
    try:
        answer = answers.get(timeout=patience_s)
    except Empty:
        raise ConfigError(
            f"the NVIDIA driver hangs: NVML has not answered for {patience_s:g} s; see dmesg"
        ) from None
    if isinstance(answer, ConfigError):
        raise answer
    return answer


class Openings:
    """The GPUs of NVML's indices below `count`, of which those named in `wanted` (none: all) are awaited."""

    def __init__(
        self,
        count: int,
        wanted: Collection[str],
        open_gpu: Callable[[int], Device],
        retry_s: float = RETRY_SECONDS,
    ) -> None:
        self._wanted, self._open_gpu, self._retry_s = wanted, open_gpu, retry_s
        self._lock = threading.Lock()
        self._opened: dict[int, Device] = {}
        self._join: Callable[[Device], object] | None = None
        self._errors: Counter[tuple[int, str]] = Counter()
        self._answered = threading.Event()
        self._tried = [threading.Event() for _ in range(count)]
        for index in range(count):
            threading.Thread(target=self._open, args=(index,), name=f"open-{index}", daemon=True).start()

    @property
    def unopened(self) -> list[int]:
        """Indices of the GPUs that have not answered yet."""
        with self._lock:
            return [index for index in range(len(self._tried)) if index not in self._opened]

    @property
    def missing(self) -> int:
        """How many of the wanted GPUs have not answered yet."""
        if not self._wanted:
            return len(self.unopened)
        with self._lock:
            names = {name for device in self._opened.values() for name in names_of(device)}
        return len(set(self._wanted) - names)

    def opened(self, patience_s: float = PATIENCE_SECONDS, answer_s: float = ANSWER_SECONDS) -> list[Device]:
        """Return the open GPUs, ordered by index.

        Wait until each GPU has answered or `patience_s` has passed. If no wanted GPU is open by then, wait
        until one is open, each GPU has answered, or `answer_s` has passed since the start.
        """
        begun_s = monotonic()
        for tried in self._tried:
            tried.wait(max(0.0, begun_s + patience_s - monotonic()))
        while not self._wanted_is_open() and self.silent and monotonic() < begun_s + answer_s:
            self._answered.wait(begun_s + answer_s - monotonic())
            self._answered.clear()
        with self._lock:
            return [self._opened[index] for index in sorted(self._opened)]

    def _wanted_is_open(self) -> bool:
        """Return whether at least one wanted GPU is open. Without --gpus, every GPU is wanted."""
        with self._lock:
            devices = list(self._opened.values())
        return any(not self._wanted or not names_of(device).isdisjoint(self._wanted) for device in devices)

    @property
    def silent(self) -> int:
        """How many GPUs have not answered at all: their calls hang."""
        return sum(not tried.is_set() for tried in self._tried)

    def join_others(self, taken: Sequence[Device], join: Callable[[Device], object]) -> None:
        """From now on, give wanted GPUs that are not `taken` to `join`, each in a thread of its own."""
        with self._lock:
            self._join = join
            others = [device for device in self._opened.values() if device not in taken]
        for index, tried in enumerate(self._tried):
            if not tried.is_set():
                _log.warning("GPU %d does not answer; it is read when it does", index)
                self._note(index, OPEN_TOO_SLOW)
        for device in others:
            self._joined(device, join)

    def add_to(self, families: MetricBuilder) -> None:
        """Add the errors of GPUs that could not be opened; their UUIDs are not known then."""
        with self._lock:
            errors = dict(self._errors)
        for (index, name), count in errors.items():
            families.add(metrics.GPU_READ_ERRORS, (str(index), "", name), count)

    def _note(self, index: int, name: str) -> None:
        """Count an error of a GPU that may be a wanted one."""
        by_index = all(wanted.isdecimal() for wanted in self._wanted)
        if not self._wanted or not by_index or str(index) in self._wanted:
            with self._lock:
                self._errors[index, name] += 1

    def _open(self, index: int) -> None:
        device, join, error = None, None, ""
        while device is None:
            try:
                device, join = self._open_new(index)
            except Exception as exc:  # noqa: BLE001 - whatever it is, the GPU may answer the next time
                if str(exc) != error:
                    _log.warning("GPU %d cannot be opened, and is tried again: %s", index, exc)
                error = str(exc)
                cause = exc.__cause__
                self._note(index, cause.name if isinstance(cause, DeviceError) else type(exc).__name__)
                self._tried[index].set()
                self._answered.set()
                sleep(self._retry_s)
                if not self.missing:
                    return
        self._tried[index].set()
        self._answered.set()
        if join:
            self._joined(device, join)

    def _open_new(self, index: int) -> tuple[Device, Callable[[Device], object] | None]:
        """Open the GPU of this index, and who is to be given it.

        After a reload that numbered them anew it may be one that is read already; the one that is missing
        has another number then.
        """
        for number in (index, *(other for other in range(len(self._tried)) if other != index)):
            device = self._open_gpu(number)
            with self._lock:
                known = {opened.info.uuid for opened in self._opened.values()}
                if device.info.uuid in known:
                    continue
                self._opened[index] = device
                return device, self._join
        raise DeviceError("every GPU that opens is read already", "NVML_ERROR_NOT_FOUND")

    def _joined(self, device: Device, join: Callable[[Device], object]) -> None:
        if not self._wanted or not names_of(device).isdisjoint(self._wanted):
            _log.info("GPU %d (%s) is open", device.info.index, device.info.uuid)
            join(device)


def names_of(device: Device) -> set[str]:
    """What a user may call a GPU."""
    return {str(device.info.index), device.info.uuid}
