"""The event loop, and Python's own housekeeping, leave the interpreter to the GPUs around each tick."""

import asyncio
import os
import socket
import subprocess
import sys
import time

from llem_exporter.turns import PacedSelector
from tests.fake_nvml import FakeDriver


def test_what_has_come_waits_for_as_long_as_the_pause_says() -> None:
    """It is told all the same, and nothing sleeps where there is no pause."""
    pauses_s, slept_s = [0.004, 0.0], list[float]()
    near, far = socket.socketpair()
    with near, far, PacedSelector(lambda: pauses_s.pop(0), slept_s.append) as selector:
        selector.register(near, 1)
        far.send(b"x")
        assert [key.fileobj for key, _ in selector.select(1.0)] == [near]
        assert slept_s == [0.004]
        assert [key.fileobj for key, _ in selector.select(1.0)] == [near]
        assert slept_s == [0.004]


def test_no_turn_begins_in_a_pause() -> None:
    """A loop that is always busy is still for the first 10 ms of each 50."""

    def pause_s() -> float:
        return max(0.0, 0.01 - time.monotonic() % 0.05)

    async def busy() -> list[float]:
        began_s = [time.monotonic()]
        while began_s[-1] < began_s[0] + 0.5:
            await asyncio.sleep(0)
            began_s.append(time.monotonic())
        return began_s[1:]

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(PacedSelector(pause_s))) as runner:
        began_s = runner.run(busy())
    assert len(began_s) > 100
    within = sum(instant_s % 0.05 < 0.009 for instant_s in began_s)
    assert within <= 0.01 * len(began_s)  # whom the machine stops after the pause wakes in the next one


_COUNTED = """
import gc, logging, os, signal, threading
from llem_exporter.exporter import Settings, run
from llem_exporter.listening import Address

class Log(logging.Handler):
    read = 0

    def emit(self, record):
        self.read += "energy counter is read" in record.getMessage()
        if self.read == 3:
            threading.Timer(0.5, count).start()

def count():
    gc.collect()
    print(len(gc.get_objects()))
    os.kill(os.getpid(), signal.SIGTERM)

logging.basicConfig(level="INFO", handlers=[Log()])
run(Settings(addresses=(Address("127.0.0.1", 0),), use_codecarbon=False))
"""


def test_what_is_there_at_the_start_is_not_looked_through_again(driver: FakeDriver) -> None:
    """Zeus brings 50,000 objects: when Python looks for cycles in them, all threads wait for 40 ms."""
    done = subprocess.run(
        [sys.executable, "-c", _COUNTED],
        env={**os.environ, **driver.env},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert int(done.stdout) < 5_000
