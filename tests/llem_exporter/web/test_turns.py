"""The event loop leaves the interpreter to the GPUs' threads around each tick."""

import asyncio
import socket

from llem_exporter.paced_loop import PacedSelector


def test_what_has_come_waits_for_as_long_as_the_pause_says() -> None:
    """select() sleeps for the pause and then returns the events. Without a pause it does not sleep."""
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
    """A busy event loop sleeps for the pause before each iteration."""
    slept_s = list[float]()

    async def busy() -> None:
        for turn in range(10):
            await asyncio.sleep(0)
            assert len(slept_s) > turn

    selector = PacedSelector(lambda: 0.004, slept_s.append)
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(busy())
    assert set(slept_s) == {0.004}
