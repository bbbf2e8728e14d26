"""What is done to the GPUs, the driver and the exporter of a soak, at random from one seed."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.fake_nvml import FakeDriver, FakeGpu
from tests.llem_exporter.web.web_rig import write_whole

RECOVERY_SECONDS: Final = 3.0
"""A GPU that is back is asked again once a second, and then every tick."""

SILENCING: Final = frozenset({"lost", "hung", "denied", "absurd", "reload"})
"""While such a fault lasts there is no power to publish."""

OF_GPUS: Final = ("lost", "hung", "slow", "denied", "absurd", "reset")
OF_ALL: Final = ("reload",)
OF_NONE: Final = ("config", "hangup")


@dataclass(frozen=True, slots=True)
class Episode:
    """A fault, from its first to its last instant in unix seconds, on these GPUs."""

    kind: str
    gpus: frozenset[int]
    start_s: float
    end_s: float

    @property
    def concerned_ms(self) -> tuple[float, float]:
        """The first and the last instant that it may show at [unix ms]."""
        return 1000 * self.start_s - 200, 1000 * (self.end_s + RECOVERY_SECONDS)

    @property
    def delays_others(self) -> bool:
        """Whether its start delays GPUs that are read by the same thread."""
        return self.kind in ("hung", "slow", "reload")

    def silences(self, gpu: int, asked_s: float, came_s: float, after_s: float) -> bool:
        """Whether a page is of a time at which no power has been read because of it for over `after_s`."""
        concerns = self.kind in SILENCING and gpu in self.gpus
        return concerns and self.start_s + after_s < asked_s and came_s < self.end_s


class Faults:
    """One at a time, each on one to three GPUs or on everything, with a pause between them."""

    def __init__(
        self, driver: FakeDriver, config: Path, pid: int, seed: int, report: Callable[[str], object]
    ) -> None:
        self._driver, self._config, self._pid = driver, config, pid
        self._chance, self._report = random.Random(seed), report
        self.episodes: list[Episode] = []

    def run(self, seconds: float) -> None:
        """Go on until so many seconds are over; nothing is at fault then."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            self._inject(min(self._chance.uniform(0.3, 4.0), left_s))
            time.sleep(max(0.0, min(self._chance.uniform(1.0, 4.0), end_s - time.monotonic())))

    def _inject(self, seconds: float) -> None:
        kind = self._chance.choice((*OF_GPUS, *OF_GPUS, *OF_ALL, *OF_NONE))
        every = range(self._driver.gpu_count)
        some = self._chance.sample(every, self._chance.choice((1, 1, 2, 3))) if kind in OF_GPUS else []
        concerned = frozenset(every if kind in OF_ALL else some)
        start_s = time.time()
        with ExitStack() as faults:
            for number in some:
                faults.enter_context(self._on_gpu(kind, self._driver.gpus[number]))
            if not some:
                faults.enter_context(self._on_everything(kind))
            time.sleep(seconds)
        self.episodes.append(Episode(kind, concerned, start_s, time.time()))
        gpus = ",".join(map(str, sorted(some))) or "-"
        self._report(f"{time.strftime('%H:%M:%S')} {kind:<8}GPU {gpus:<6}{seconds:5.1f} s")

    @contextmanager
    def _on_gpu(self, kind: str, gpu: FakeGpu) -> Iterator[None]:
        name, value, healthy = {
            "lost": ("lost", True, False),
            "hung": ("hung", True, False),
            # In a shorter call, which is a sample, nobody knows when the reading was.
            "slow": ("slow_call_s", self._chance.uniform(0.35, 1.0), 0.0),
            "denied": ("denied", frozenset({"fields", "power"}), frozenset()),
            "absurd": ("power_override_watts", self._chance.choice((0.0, 1e4)), None),
            "reset": ("hung", False, False),
        }[kind]
        if kind == "reset":
            gpu.reset_counter()
        setattr(gpu, name, value)
        try:
            yield
        finally:
            setattr(gpu, name, healthy)

    @contextmanager
    def _on_everything(self, kind: str) -> Iterator[None]:
        good = self._config.read_bytes()
        if kind == "reload":
            self._driver.unload()
        elif kind == "config":
            wrong = self._chance.choice((b"", b"basic_auth_users: {", b"\xff"))
            write_whole(self._config, wrong)
        os.kill(self._pid, signal.SIGHUP)
        try:
            yield
        finally:
            if kind == "reload":
                self._driver.reload()
            elif kind == "config":
                write_whole(self._config, good)
                os.kill(self._pid, signal.SIGHUP)
