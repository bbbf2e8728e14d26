"""Read all GPUs at every tick, so that a GPU whose driver call hangs delays no other.

One thread reads all GPUs, one after the other, since waking up costs more than reading. A GPU whose call
hangs keeps its thread: within 150 ms (at 10 Hz) a new thread goes on with the other GPUs, which lose at most
two samples and get no gap. A GPU whose calls are slow gets a thread of its own. When it has been fast for a
while, it joins the others again.
"""

import threading
import time
from collections.abc import Sequence
from typing import Final

from llem_core.energy import GAP_INTERVALS
from llem_measure.sampling.gpu_sampler import GpuSampler
from llem_measure.sampling.ticks import Tick, Ticker, WallClock

STUCK_INTERVALS: Final = 0.4
STUCK_SECONDS: Final = 0.4
"""A GPU is stuck if its reading has lasted for this share of an interval, or this long."""

SLOW_READS: Final = 10
FAST_READS: Final = 100
"""A GPU gets its own thread after SLOW_READS slow readings in a row, and loses it after FAST_READS fast
ones."""

END_CHECKS: Final = 20
END_CHECK_SECONDS: Final = 0.05
"""How often, and how many times, the watch looks for stuck GPUs while the last readings are made."""


class _StopSignal:
    """Like threading.Event, but waiting costs a tenth: the threads of a sampler wait at every tick."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.is_set = False

    def set(self) -> None:
        """End all waiting, now and later."""
        if not self.is_set:
            self.is_set = True
            self._lock.release()

    def wait(self, timeout_s: float) -> bool:
        """Wait for set(), at most this long. Returns whether it was called."""
        if self._lock.acquire(timeout=timeout_s):
            self._lock.release()
        return self.is_set


class _ReadingThread:
    """The GPUs that one thread reads. `current` is being read now and must not be moved."""

    def __init__(self, gpus: Sequence[GpuSampler]) -> None:
        self.gpus = list(gpus)
        self.current: GpuSampler | None = None


class Sampler:
    """Reads GPUs at every tick, by as few threads as possible."""

    def __init__(self, gpus: Sequence[GpuSampler], clock: WallClock, interval_ms: int) -> None:
        self.clock, self.interval_ms = clock, interval_ms
        self.max_gap_ms = GAP_INTERVALS * interval_ms
        self.gpus = tuple(gpus)
        self._stopped = _StopSignal()
        self._moving = threading.Lock()
        self._threads = [_ReadingThread(gpus)]

    def start(self) -> None:
        """Start to read. The threads end after stop(), or with the process, even if a call hangs."""
        self._start(self._threads[0])
        threading.Thread(target=self._watch, name="gpu-watch", daemon=True).start()

    def stop(self) -> None:
        """Stop after one last reading of each GPU. This does not wait."""
        self._stopped.set()

    def remove(self, gpus: Sequence[GpuSampler]) -> None:
        """Read these GPUs no more."""
        with self._moving:
            self.gpus = tuple(gpu for gpu in self.gpus if gpu not in gpus)
            for thread in self._threads:
                thread.gpus = [gpu for gpu in thread.gpus if gpu not in gpus]
        for gpu in gpus:
            gpu.last_read.set()

    def wait_first(self, timeout_s: float) -> Sequence[GpuSampler]:
        """Wait until each GPU was read once, or failed once. Returns those that have not answered."""
        return self._wait([gpu.first_read for gpu in self.gpus], timeout_s)

    def wait_last(self, timeout_s: float) -> Sequence[GpuSampler]:
        """After stop(), wait for the last readings. Returns the GPUs that have not answered."""
        return self._wait([gpu.last_read for gpu in self.gpus], timeout_s)

    @property
    def ready(self) -> bool:
        """Whether each GPU was read once, failed once, or hangs."""
        return all(gpu.first_read.is_set() or gpu.hangs for gpu in self.gpus)

    def _wait(self, events: Sequence[threading.Event], timeout_s: float) -> Sequence[GpuSampler]:
        end_s = time.monotonic() + timeout_s
        for event in events:
            event.wait(max(0.0, end_s - time.monotonic()))
        return [gpu for gpu, event in zip(self.gpus, events, strict=True) if not event.is_set()]

    def _start(self, thread: _ReadingThread) -> None:
        threading.Thread(target=self._run, args=(thread,), name="gpu-reader", daemon=True).start()

    def _run(self, thread: _ReadingThread) -> None:
        ticker = Ticker(self.clock, self.interval_ms, self._stopped.wait)
        # The first reading comes at once: the GPUs of a thread that hangs have missed a tick.
        self.read(thread.gpus, ticker.now(), thread)
        for tick in ticker:
            if not thread.gpus:
                return
            self.read(thread.gpus, tick, thread)
        self.read(thread.gpus, ticker.now(), thread, last=True)

    def read(
        self,
        gpus: Sequence[GpuSampler],
        tick: Tick,
        thread: _ReadingThread | None = None,
        *,
        last: bool = False,
    ) -> None:
        """Read GPUs for a tick: first the fast calls of all of them, then the status of each."""
        thread = thread or _ReadingThread(gpus)
        slow_last = sorted(gpus, key=GpuSampler.is_slow_now)
        for gpu in slow_last:
            if self._take(thread, gpu):
                gpu.read(tick)
                thread.current = None
        for gpu in slow_last:
            if (last or gpu.is_unfinished) and self._take(thread, gpu):
                gpu.finish(last=last)
                thread.current = None

    def _take(self, thread: _ReadingThread, gpu: GpuSampler) -> bool:
        """Return whether the thread still has this GPU, which then cannot be moved."""
        with self._moving:
            if gpu not in thread.gpus:
                return False
            thread.current = gpu
            return True

    def _watch(self) -> None:
        """Halfway between two ticks, look for GPUs to move to another thread."""
        interval_s = self.interval_ms / 1000
        while True:
            unix_s = self.clock.monotonic_s() + self.clock.mapping.offset_s
            if self._stopped.wait(interval_s - (unix_s + interval_s / 2) % interval_s):
                break
            if self._is_quiet():
                continue
            self._move_gpus()
            for gpu in self.gpus:
                gpu.check_hang()
        for _ in range(END_CHECKS):
            if all(gpu.last_read.wait(0) for gpu in self.gpus):
                return
            self._move_gpus()
            time.sleep(END_CHECK_SECONDS)

    def _is_quiet(self) -> bool:
        """Return whether one thread reads all GPUs, is not reading now, and no GPU hangs or is slow."""
        return (
            len(self._threads) == 1
            and self._threads[0].current is None
            and not any(gpu.slow_reads or gpu.hangs for gpu in self.gpus)
        )

    def _move_gpus(self) -> None:
        """Give each stuck or slow GPU a thread of its own. A GPU that is fast again loses it."""
        with self._moving:
            for thread in tuple(self._threads):
                current = thread.current
                if current is not None and self._is_stuck(current):
                    current.fast_reads = 0
                    self._split(thread, [gpu for gpu in thread.gpus if gpu is not current])
                elif len(thread.gpus) > 1:
                    slow = [gpu for gpu in thread.gpus if gpu.slow_reads >= SLOW_READS and gpu is not current]
                    self._split(thread, slow[:1])
            if len(self._threads) > 1 and not self._stopped.is_set:
                self._join_fast()

    def _is_stuck(self, gpu: GpuSampler | None) -> bool:
        since_s = gpu.busy_since_s if gpu else None
        stuck_s = min(STUCK_INTERVALS * self.interval_ms / 1000, STUCK_SECONDS)
        return since_s is not None and self.clock.monotonic_s() - since_s > stuck_s

    def _split(self, thread: _ReadingThread, gpus: Sequence[GpuSampler]) -> None:
        if gpus:
            thread.gpus = [gpu for gpu in thread.gpus if gpu not in gpus]
            other = _ReadingThread(gpus)
            self._threads.append(other)
            self._start(other)

    def _join_fast(self) -> None:
        """Move GPUs that are fast again to the thread that has the most fast GPUs, and does not hang."""
        self._threads = [thread for thread in self._threads if thread.gpus] or self._threads[:1]
        free = [thread for thread in self._threads if not self._is_stuck(thread.current)]
        if not free:
            return
        largest = max(free, key=lambda thread: len(_fast(thread)))
        for thread in self._threads:
            fast = _fast(thread)
            if fast and thread is not largest and thread.current is None:
                thread.gpus = [gpu for gpu in thread.gpus if gpu not in fast]
                largest.gpus = [*largest.gpus, *fast]


def _fast(thread: _ReadingThread) -> list[GpuSampler]:
    return [gpu for gpu in thread.gpus if gpu.fast_reads >= FAST_READS]
