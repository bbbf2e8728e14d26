"""Calls of the driver's that may not return, waited for with patience."""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, TypeVar

PATIENCE_SECONDS: Final = 2.0
"""How long a start or a stop waits for a GPU that does not answer."""

Key = TypeVar("Key")


def hanging(calls: Mapping[Key, Callable[[], object]], patience_s: float = PATIENCE_SECONDS) -> set[Key]:
    """Which of these calls have not returned in time, all made at once; one that fails has returned."""
    threads = {
        key: threading.Thread(target=_try, args=(call,), name=f"try-{key}", daemon=True)
        for key, call in calls.items()
    }
    for thread in threads.values():
        thread.start()
    end_s = time.monotonic() + patience_s
    for thread in threads.values():
        thread.join(max(0.0, end_s - time.monotonic()))
    return {key for key, thread in threads.items() if thread.is_alive()}


def _try(call: Callable[[], object]) -> None:
    with suppress(Exception):
        call()
