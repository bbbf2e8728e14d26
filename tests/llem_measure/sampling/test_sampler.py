"""One thread reads all GPUs, and a GPU whose calls hang or are slow delays no other: with real threads."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import pytest

from llem_core.errors import DeviceLostError
from llem_measure.sampling.devices import DeviceInfo, Status
from llem_measure.sampling.gpu_sampler import GpuSampler
from llem_measure.sampling.ledger import GpuLedger
from llem_measure.sampling.ring import Ring
from llem_measure.sampling.sampler import FAST_READS, Sampler
from llem_measure.sampling.ticks import WallClock
from tests.llem_measure.fake_time import FakeTime, FormulaCounter
from tests.llem_measure.sampling.sampled_gpu import SampledGpu
from tests.servers import wait_until

LONG_MS = 400
"""An interval of which even a busy machine does not miss three in a row."""

SHORT_MS = 20


class ThreadedDevice:
    """A GPU whose calls can hang or be slow. It notes the thread of each call, and the time it began."""

    def __init__(self, index: int) -> None:
        self.info = DeviceInfo(index, f"GPU-{index}")
        self.answers, self.answers_status = threading.Event(), threading.Event()
        self.answers.set()
        self.answers_status.set()
        self.delay_s = self.status_delay_s = 0.0
        self.threads = list[int]()
        self.called_s = list[float]()
        self.is_lost = False

    def open(self) -> bool:
        return True

    def read_watts(self, unix_ms: int) -> float:
        assert unix_ms > 0
        self.threads.append(threading.get_ident())
        self.called_s.append(time.monotonic())
        self.answers.wait()
        if self.delay_s:
            time.sleep(self.delay_s)
        if self.is_lost:
            raise DeviceLostError("gone", "NVML_ERROR_GPU_IS_LOST")
        return 100.0

    def read_status(self) -> Status:
        self.answers_status.wait()
        time.sleep(self.status_delay_s)
        return Status()


class Rig:
    """A sampler of some GPUs."""

    def __init__(self, gpus: int, interval_ms: int) -> None:
        self.devices = [ThreadedDevice(index) for index in range(gpus)]
        clock = WallClock(interval_ms)
        self.ledgers = [GpuLedger(Ring(1000), 3 * interval_ms) for _ in self.devices]
        pairs = zip(self.devices, self.ledgers, strict=True)
        self.gpus = [GpuSampler(device, None, ledger, clock, interval_ms) for device, ledger in pairs]
        self.sampler = Sampler(self.gpus, clock, interval_ms)

    def wait_samples(self, count: int, gpus: Sequence[int]) -> None:
        """Wait for some more samples of these GPUs."""
        before = {index: self.ledgers[index].samples for index in gpus}
        wait_until(
            lambda: all(self.ledgers[index].samples >= before[index] + count for index in gpus), "samples"
        )

    def threads(self, *gpus: int) -> set[int]:
        """Return the threads that read these GPUs last."""
        return {self.devices[index].threads[-1] for index in gpus}

    def gaps_s(self, *gpus: int) -> list[float | None]:
        now_s = time.monotonic()
        return [self.ledgers[index].snapshot(now_s).gap_s for index in gpus]


@contextmanager
def sampling(gpus: int, interval_ms: int, *, hanging: Sequence[int] = ()) -> Iterator[Rig]:
    """Start a sampler; the calls of some GPUs hang. At the end none hangs, so that all threads end."""
    rig = Rig(gpus, interval_ms)
    for index in hanging:
        rig.devices[index].answers.clear()
    before = set(threading.enumerate())
    rig.sampler.start()
    try:
        yield rig
    finally:
        rig.sampler.stop()
        for device in rig.devices:
            device.delay_s = 0.0
            device.answers.set()
            device.answers_status.set()
        wait_until(lambda: not set(threading.enumerate()) - before, "the end of the threads")


def test_one_thread_reads_all_gpus() -> None:
    """Each GPU is read once at each tick, by the same thread."""
    with sampling(8, LONG_MS) as rig:
        assert not rig.sampler.wait_first(30)
        rig.wait_samples(3, range(8))
        rig.sampler.stop()
        assert not rig.sampler.wait_last(30)
        assert len({thread for device in rig.devices for thread in device.threads}) == 1
    assert {len(device.threads) for device in rig.devices} == {len(rig.devices[0].threads)}


@pytest.mark.parametrize("call", ["power", "status"])
def test_a_gpu_that_hangs_stops_no_other(call: str) -> None:
    """Another thread goes on with the others, which get no gap. The first keeps the stuck GPU."""
    with sampling(3, LONG_MS) as rig:
        assert not rig.sampler.wait_first(30)
        stuck = rig.devices[1]
        answers = stuck.answers if call == "power" else stuck.answers_status
        [first] = rig.threads(0, 1, 2)
        answers.clear()
        wait_until(lambda: rig.gpus[1].hangs, "the hang")
        samples = rig.ledgers[1].samples
        rig.wait_samples(3, [0, 2])
        assert rig.ledgers[1].samples == samples
        assert rig.threads(0, 2).isdisjoint({first})
        assert rig.gaps_s(0, 2) == [0.0, 0.0]
        answers.set()
        rig.wait_samples(2, [0, 1, 2])
        assert rig.threads(1) == {first}
        gap_s = rig.gaps_s(1)[0]
        assert gap_s is not None
        assert gap_s > 0
        assert rig.gaps_s(0, 2) == [0.0, 0.0]
        assert rig.ledgers[1].errors == {"READ_TOO_SLOW": 1}


def test_of_two_gpus_one_that_hangs_does_not_stop_the_other() -> None:
    """The other GPU has been fast for long. It must not join the thread that hangs."""
    with sampling(2, SHORT_MS) as rig:
        wait_until(lambda: rig.gpus[1].fast_reads > FAST_READS, "fast readings")
        rig.devices[0].answers.clear()
        for _ in range(3):
            rig.wait_samples(30, [1])


def test_a_gpu_that_hangs_at_its_first_call_stops_no_other() -> None:
    """wait_first() returns the GPUs that have not answered. After a second the sampler is ready anyway."""
    with sampling(4, SHORT_MS, hanging=[0, 2]) as rig:
        assert rig.gpus[0] in rig.sampler.wait_first(0.0)
        wait_until(lambda: rig.sampler.wait_first(0.0) == [rig.gpus[0], rig.gpus[2]], "the other GPUs")
        rig.wait_samples(3, [1, 3])
        wait_until(lambda: rig.sampler.ready, "the hang to be noted, for which nobody waits")
        rig.devices[0].answers.set()
        wait_until(lambda: rig.sampler.wait_first(0.0) == [rig.gpus[2]], "GPU 0")
        rig.devices[2].answers.set()
        assert not rig.sampler.wait_first(30)


def test_a_lost_gpu_counts_as_read_once() -> None:
    """A GPU whose first call fails has answered."""
    with sampling(1, SHORT_MS) as rig:
        rig.devices[0].is_lost = True
        assert not rig.sampler.wait_first(30)


def test_a_slow_gpu_has_a_thread_of_its_own_until_it_is_fast_again() -> None:
    """Ten slow calls in a row are enough. After a hundred fast ones, one thread reads both again."""
    with sampling(2, SHORT_MS) as rig:
        assert not rig.sampler.wait_first(30)
        rig.devices[1].delay_s = 0.004
        wait_until(lambda: len(rig.threads(0, 1)) == 2, "a thread for the slow GPU")
        rig.wait_samples(3, [0, 1])
        rig.devices[1].delay_s = 0.0
        slow_reads = len(rig.devices[1].threads)
        wait_until(lambda: len(rig.threads(0, 1)) == 1, "one thread for both")
        assert len(rig.devices[1].threads) - slow_reads >= FAST_READS
        rig.wait_samples(3, [0, 1])


def test_a_gpu_whose_status_is_slow_keeps_a_thread_of_its_own() -> None:
    """It would else be moved to and fro every second."""
    with sampling(2, SHORT_MS) as rig:
        wait_until(lambda: rig.gpus[1].fast_reads > FAST_READS, "fast readings")
        rig.devices[1].status_delay_s = 0.05
        wait_until(lambda: len(rig.threads(0, 1)) == 2, "a thread for the slow GPU")
        rig.wait_samples(10, [0])
        before = len(rig.devices[0].threads)
        rig.wait_samples(150, [0])
        assert len(set(rig.devices[0].threads[before:])) == 1


def test_slow_gpus_have_a_thread_each() -> None:
    """If all are slow, they do not wait for each other."""
    with sampling(3, SHORT_MS) as rig:
        assert not rig.sampler.wait_first(30)
        for device in rig.devices:
            device.delay_s = 0.004
        wait_until(lambda: len(rig.threads(0, 1, 2)) == 3, "a thread for each slow GPU")


def test_stop_makes_one_last_reading_of_each_gpu() -> None:
    """It begins after stop(), and comes at once: the interval is far longer."""
    with sampling(2, 5000) as rig:
        assert not rig.sampler.wait_first(30)
        stopped_s = time.monotonic()
        rig.sampler.stop()
        assert not rig.sampler.wait_last(30)
        assert all(device.called_s[-1] >= stopped_s for device in rig.devices)
        assert all(sum(at_s >= stopped_s for at_s in device.called_s) == 1 for device in rig.devices)


@pytest.mark.parametrize("hangs_before", [True, False])
def test_stop_does_not_wait_for_a_gpu_that_hangs(hangs_before: bool) -> None:
    """The others have their last reading. The stuck GPU has it when its call returns."""
    with sampling(3, 2 * SHORT_MS) as rig:
        assert not rig.sampler.wait_first(30)
        if hangs_before:
            rig.devices[0].answers.clear()
            rig.wait_samples(3, [1, 2])
        else:
            rig.wait_samples(3, [0, 1, 2])
            rig.devices[0].answers.clear()
        stopped_s = time.monotonic()
        rig.sampler.stop()
        wait_until(lambda: rig.sampler.wait_last(0.0) == [rig.gpus[0]], "the last readings of the others")
        assert all(device.called_s[-1] >= stopped_s for device in rig.devices[1:])
        rig.devices[0].answers.set()
        assert not rig.sampler.wait_last(30)
        assert rig.devices[0].called_s[-1] >= stopped_s


def test_a_removed_gpu_is_read_no_more() -> None:
    """The others are read on. A sampler of no GPU ends as any other."""
    with sampling(3, SHORT_MS) as rig:
        assert not rig.sampler.wait_first(30)
        rig.sampler.remove([rig.gpus[0], rig.gpus[2]])
        rig.wait_samples(2, [1])
        counts = [len(device.threads) for device in rig.devices]
        rig.wait_samples(5, [1])
        assert [len(rig.devices[index].threads) for index in (0, 2)] == [counts[0], counts[2]]
        assert rig.sampler.gpus == (rig.gpus[1],)
        rig.sampler.remove(rig.gpus)
        assert rig.sampler.ready
        assert not rig.sampler.gpus


class OrderedGpu(SampledGpu):
    """A GPU that notes the order of the calls, and has perhaps an energy counter whose calls are slow."""

    def __init__(self, index: int, time: FakeTime, order: list[str], *, counter: bool) -> None:
        def power(_: int) -> float:
            order.append(f"power {index}")
            return 100.0

        def energy(_: int) -> float:
            order.append(f"energy {index}")
            time.sleep(0.0024)
            return 100 * time.monotonic_s()

        info = DeviceInfo(index, f"GPU-{index}")
        super().__init__(power, FormulaCounter(energy) if counter else None, info=info, time=time)


def test_slow_energy_calls_come_after_the_fast_ones() -> None:
    """Within a tick, the power of the other GPUs is read before a call that is known to be slow."""
    fake, order = FakeTime(), list[str]()
    rigs = [OrderedGpu(index, fake, order, counter=index == 0) for index in range(2)]
    sampler = Sampler([rig.gpu for rig in rigs], rigs[0].clock, 100)
    orders = list[list[str]]()
    for tick in islice(rigs[0].ticker, 50):
        order.clear()
        sampler.read(sampler.gpus, tick)
        orders.append(order.copy())
    assert orders[0] == ["power 0", "energy 0", "power 1"]
    slow = ["power 1", "power 0", "energy 0"]
    assert 3 <= orders[20:].count(slow) <= 4
    assert all(order in (slow, ["power 0", "power 1"]) for order in orders[20:])


@pytest.mark.parametrize("interval_ms", [SHORT_MS, 60_000])
def test_the_last_readings_do_not_wait_for_a_gpu_that_hangs(interval_ms: int) -> None:
    """After stop(), a GPU that hangs costs the others less than a second, whatever the interval."""
    with sampling(2, interval_ms) as rig:
        assert not rig.sampler.wait_first(30)
        rig.devices[0].answers.clear()
        stopped_s = time.monotonic()
        rig.sampler.stop()
        assert rig.gpus[1].last_read.wait(30)
        assert time.monotonic() - stopped_s < 2.0
        assert rig.sampler.wait_last(0) == [rig.gpus[0]]
