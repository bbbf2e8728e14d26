"""A machine's two clocks, moved by hand, and GPUs that read a formula of time."""

from collections.abc import Callable
from dataclasses import dataclass, field

from llem_measure.sampling.devices import DeviceInfo, Status

START_UNIX_S = 1_795_507_546.04


class FakeTime:
    """Sleeping moves both clocks; `set_wall` moves only the one that people set."""

    def __init__(self, unix_s: float = START_UNIX_S) -> None:
        self._monotonic_s = 5000.0
        self._offset_s = unix_s - self._monotonic_s

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def unix_s(self) -> float:
        return self._monotonic_s + self._offset_s

    def sleep(self, seconds: float) -> None:
        self._monotonic_s += seconds

    def set_wall(self, by_s: float) -> None:
        self._offset_s += by_s


@dataclass
class FormulaDevice:
    """A GPU whose power is a function of the time it is asked at; the function may sleep or raise."""

    watts_at: Callable[[int], float]
    info: DeviceInfo = field(default_factory=lambda: DeviceInfo(0, "GPU-formula", "formula"))
    status: Status = field(default_factory=Status)
    on_status: Callable[[], object] = lambda: None
    opened: int = 0

    def read_watts(self, unix_ms: int) -> float:
        return self.watts_at(unix_ms)

    def read_status(self) -> Status:
        self.on_status()
        return self.status

    def open(self) -> bool:
        self.opened += 1
        return True


@dataclass
class FormulaCounter:
    """An energy counter that is a function of the time it is asked at; the function may sleep or raise."""

    joules_at: Callable[[int], float]
    exists: bool = True
    opened: int = 0

    def read_joules(self, unix_ms: int) -> float:
        return self.joules_at(unix_ms)

    def open(self) -> bool:
        self.opened += 1
        return self.exists
