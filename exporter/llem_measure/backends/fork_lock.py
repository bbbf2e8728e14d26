"""A lock that is free in a forked child."""

import os
import threading


class ForkLock:
    """A lock for a with-block. A forked child has none of the threads that may hold it, so it is free there.

    A fork does not wait for the lock: its holder may be in a driver call that hangs.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def locked(self) -> bool:
        """Return whether the lock is held."""
        return self._lock.locked()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        if self._lock.locked():  # it is free if the holder itself has forked
            self._lock.release()
