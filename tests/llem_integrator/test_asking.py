"""Several questions to one source: in order, at once where it can, and no more than are wanted."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from llem_core.errors import SourceError
from llem_integrator.asking import answers, begun
from tests.llem_integrator.clusters import PieceStore, store
from tests.servers import wait_until


@dataclass
class Twice(PieceStore):
    """A store that two threads may ask."""

    at_once: int = 2


def twice() -> Twice:
    return Twice(store().held)


def test_two_questions_wait_for_each_other() -> None:
    """Two requests run at the same time. Their results come in the order of the requests."""
    both, second = threading.Barrier(2, timeout=60), threading.Event()

    def question(number: int) -> Callable[[], int]:
        def ask() -> int:
            both.wait()
            if number == 0:
                assert second.wait(60)  # the answers come the other way round
            else:
                second.set()
            return number

        return ask

    with answers(twice(), [question(0), question(1)]) as found:
        assert list(found) == [0, 1]


def test_a_source_that_says_nothing_is_asked_by_one_thread() -> None:
    """By default, all requests run in the thread that reads the results, each when it is needed."""
    with answers(store(), [threading.get_ident] * 3) as found:
        assert list(found) == [threading.get_ident()] * 3


def test_who_leaves_early_asks_no_more() -> None:
    """If the reader stops after the first of twenty results, no new request starts."""
    asked, left = list[int](), threading.Event()
    before = set(threading.enumerate())

    def ask() -> None:
        asked.append(1)
        assert left.wait(60)

    with answers(twice(), [lambda: None, *[ask] * 20]) as found:
        next(found)
    left.set()
    wait_until(lambda: set(threading.enumerate()) <= before, "the end of the threads")
    assert len(asked) <= 2


def test_what_a_question_raises_is_raised() -> None:
    """An exception of a request is raised after the earlier results."""

    def fails() -> int:
        raise SourceError("gone")

    with answers(twice(), [lambda: 1, fails, lambda: 3]) as found:
        assert next(found) == 1
        with pytest.raises(SourceError, match="gone"):
            next(found)


def test_an_early_question_is_under_way_before_its_answer_is_wanted() -> None:
    """A source with parallel requests starts at once.

    Others start when the result is read. Errors come then.
    """
    asked = threading.Event()

    def ask() -> int:
        asked.set()
        return 7

    later = begun(store(), ask)
    assert not asked.is_set()
    assert later() == 7
    asked.clear()
    early = begun(twice(), ask)
    assert asked.wait(60)
    assert early() == 7

    def fails() -> int:
        raise SourceError("gone")

    with pytest.raises(SourceError, match="gone"):
        begun(twice(), fails)()
