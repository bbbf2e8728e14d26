"""Runs a generator in a thread, ahead of the consumer of its items."""

import threading
from collections.abc import Callable, Generator
from queue import SimpleQueue
from typing import Final, TypeVar

Item = TypeVar("Item")

_INTERRUPTS: Final = 20
_INTERRUPT_S: Final = 0.05


def ahead(
    items: Generator[Item, None, None], held: int, interrupt: Callable[[], object] = lambda: None
) -> Generator[Item, None, None]:
    """Yield the items of a generator that runs in its own thread. At most `held` of them exist at a time.

    An item is released when the next one is requested. At the end both generators are closed and the thread
    ends; `interrupt` must end whatever it waits for, or the thread is left behind after a second.
    """
    permits, closed = threading.Semaphore(held), threading.Event()
    queue: SimpleQueue[Item | BaseException] = SimpleQueue()

    def run() -> None:
        try:
            while permits.acquire() and not closed.is_set():
                queue.put(next(items))
        except BaseException as error:  # noqa: BLE001 (raised again in the consumer's thread)
            queue.put(error)
        finally:
            items.close()

    thread = threading.Thread(target=run, name="llem-fetch", daemon=True)
    thread.start()
    try:
        while not isinstance(item := queue.get(), BaseException):
            yield item
            del item
            permits.release()
        if not isinstance(item, StopIteration):
            raise item
    finally:
        closed.set()
        permits.release()
        for _ in range(_INTERRUPTS):  # the thread may be between two waits
            thread.join(_INTERRUPT_S)
            if not thread.is_alive():
                break
            interrupt()
