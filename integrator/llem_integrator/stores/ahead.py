"""Runs a generator in a thread, ahead of the consumer of its items."""

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from queue import SimpleQueue
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

Item = TypeVar("Item")

_INTERRUPTS: Final = 20
_INTERRUPT_S: Final = 0.05


class Ahead(AbstractContextManager["Ahead[Item]"], Generic[Item]):
    """The items of a generator that runs in its own thread. At most `held` of them exist at a time.

    An item is released when the next one is requested. On exit the generator is closed and the thread ends;
    `interrupt` must end whatever the generator waits for.
    """

    def __init__(
        self, items: Generator[Item, None, None], held: int, interrupt: Callable[[], object]
    ) -> None:
        self._items, self._interrupt = items, interrupt
        self._permits = threading.Semaphore(held)
        self._done = threading.Event()
        self._queue: SimpleQueue[Item | None] = SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="llem-fetch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._permits.release()
        for _ in range(_INTERRUPTS):  # the thread may be between two waits; after that it is left behind
            if not self._thread.is_alive():
                break
            self._interrupt()
            self._thread.join(_INTERRUPT_S)

    def __iter__(self) -> Iterator[Item]:
        while (item := self._queue.get()) is not None:
            yield item
            del item
            self._permits.release()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while True:
                self._permits.acquire()
                if self._done.is_set():
                    break
                self._queue.put(next(self._items))
        except StopIteration:
            pass
        except BaseException as error:  # noqa: BLE001 (raised again in the consumer's thread)
            self._error = error
        finally:
            self._queue.put(None)
            self._items.close()
