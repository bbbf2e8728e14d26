"""One sampled GPU, on clocks moved by hand."""

from collections.abc import Callable
from itertools import islice

from llem_measure.sampling.devices import DeviceInfo, EnergyCounter
from llem_measure.sampling.gpu_sampler import GpuSampler
from llem_measure.sampling.ledger import GpuLedger, GpuSnapshot
from llem_measure.sampling.ring import Ring, Samples
from llem_measure.sampling.ticks import Ticker, WallClock
from tests.llem_measure.fake_time import FakeTime, FormulaDevice


class Observed:
    """Keeps what the sampler measures of itself."""

    def __init__(self) -> None:
        self.latenesses_s = list[float]()
        self.calls_s: dict[str, list[float]] = {"power": [], "energy": [], "status": []}

    def add(self, what: str, seconds: float) -> None:
        (self.latenesses_s if what == "lateness" else self.calls_s[what]).append(seconds)


class SampledGpu:
    """A GPU whose power is a function of the time, 100 W by default, and its sampler."""

    def __init__(
        self,
        watts_at: Callable[[int], float] = lambda _: 100.0,
        counter: EnergyCounter | None = None,
        *,
        info: DeviceInfo | None = None,
        interval_ms: int = 100,
        time: FakeTime | None = None,
        capacity: int = 100_000,
    ) -> None:
        self.time = time or FakeTime()
        self.clock = WallClock(interval_ms, self.time.unix_s, self.time.monotonic_s)
        self.device = FormulaDevice(watts_at, info or DeviceInfo(0, "GPU-formula", "formula"))
        self.observed = Observed()
        self.ledger = GpuLedger(Ring(capacity), 3 * interval_ms)
        self.gpu = GpuSampler(
            self.device, counter, self.ledger, self.clock, interval_ms, observe=self.observed.add
        )
        self.ticker = Ticker(self.clock, interval_ms, self.time.sleep)

    def tick(self, count: int = 1) -> GpuSnapshot:
        """Read the GPU at each of the next ticks. Return what is published after the last."""
        for tick in islice(self.ticker, count):
            self.gpu.read(tick)
            self.gpu.finish()
        return self.snapshot()

    def snapshot(self) -> GpuSnapshot:
        return self.ledger.snapshot(self.time.monotonic_s())

    def samples(self) -> Samples:
        return self.ledger.ring.copy(self.ledger.ring.held_numbers())

    def slow(self, takes_s: float, value: float = 999.0) -> Callable[[int], float]:
        """Return a function that returns a value after some time."""

        def read(_: int) -> float:
            self.time.sleep(takes_s)
            return value

        return read


def failing(error: Exception) -> Callable[[int], float]:
    """Return a reading that raises."""

    def read(_: int) -> float:
        raise error

    return read
