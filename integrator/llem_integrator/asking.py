"""Several questions to one source: at once where it can take them, else one after the other."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import closing
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import TypeVar

from llem_integrator.stores import Source

Found = TypeVar("Found")


def answers(
    source: Source, questions: Sequence[Callable[[], Found]]
) -> "closing[Generator[Found, None, None]]":
    """What the questions return, in their order; raises what the first of those that fail raised.

    After the `with` block no other query is started, so a caller that has enough answers can leave early.
    """
    at_once = min(getattr(source, "at_once", 1), len(questions))
    return closing(_side_by_side(questions, at_once) if at_once > 1 else (ask() for ask in questions))


def begun(source: Source, question: Callable[[], Found]) -> Callable[[], Found]:
    """The question, asked from now on where the source can take it beside others; else when called."""
    if getattr(source, "at_once", 1) == 1:
        return question
    future: Future[Found] = Future()

    def work() -> None:
        try:
            future.set_result(question())
        except BaseException as exc:  # noqa: BLE001 (raised again where the answer is taken)
            future.set_exception(exc)

    Thread(target=work, name="llem-ask-early", daemon=True).start()
    return future.result


def _side_by_side(questions: Sequence[Callable[[], Found]], at_once: int) -> Generator[Found, None, None]:
    futures: list[Future[Found]] = [Future() for _ in questions]
    waiting: SimpleQueue[tuple[Future[Found], Callable[[], Found]]] = SimpleQueue()
    for pair in zip(futures, questions, strict=True):
        waiting.put(pair)
    enough = Event()

    def work() -> None:
        while not enough.is_set():
            try:
                future, ask = waiting.get_nowait()
            except Empty:
                return
            try:
                future.set_result(ask())
            except BaseException as exc:  # noqa: BLE001 (raised again where the answer is taken)
                future.set_exception(exc)

    for number in range(at_once):
        # A daemon: Ctrl-C ends the program at once, whatever a store is still thinking about.
        Thread(target=work, name=f"llem-ask-{number}", daemon=True).start()
    try:
        for future in futures:
            yield future.result()
    finally:
        enough.set()
