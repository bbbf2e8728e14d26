"""A lock that a forked child finds free."""

import os
import threading


class ForkLock:
    """Held by a with-block; free in a forked child, which has none of the threads that may have held it.

    A fork does not wait for the lock: its holder may be in a call of the driver's that hangs.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def locked(self) -> bool:
        return self._lock.locked()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        if self._lock.locked():  # not where the holder itself has forked
            self._lock.release()
