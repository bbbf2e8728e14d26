"""The event loop's turns, none of which begins near a tick: then the interpreter is the GPUs' threads'."""

import selectors
from collections.abc import Callable
from time import sleep
from typing import Final


class PacedSelector(selectors.DefaultSelector):
    """What an event loop waits by; whatever has come, it waits on for as long as `pause_s` says [s]."""

    def __init__(self, pause_s: Callable[[], float], sleep: Callable[[float], object] = sleep) -> None:
        super().__init__()
        self._pause_s: Final = pause_s
        self._sleep: Final = sleep

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready, at a time when a turn may begin."""
        ready = super().select(timeout)
        if (pause_s := self._pause_s()) > 0:
            self._sleep(pause_s)
        return ready
