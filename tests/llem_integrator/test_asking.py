"""Several questions to one source: in order, at once where it can, and no more than are wanted."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from llem_core.errors import SourceError
from llem_integrator.asking import answers, begun
from tests.llem_integrator.clusters import PieceStore, store


@dataclass
class Twice(PieceStore):
    """A store that two threads may ask."""

    at_once: int = 2


def twice() -> Twice:
    return Twice(store().held)


def test_two_questions_wait_for_each_other() -> None:
    """Each is only answered once the other has been asked, too; answers come in the order of questions."""
    both = threading.Barrier(2, timeout=10)

    def question(number: int) -> Callable[[], int]:
        def ask() -> int:
            both.wait()
            time.sleep(0.05 * (number == 0))
            return number

        return ask

    with answers(twice(), [question(0), question(1)]) as found:
        assert list(found) == [0, 1]


def test_a_source_that_says_nothing_is_asked_by_one_thread() -> None:
    """All questions come from the thread that reads the answers, each when it is wanted."""
    with answers(store(), [threading.get_ident] * 3) as found:
        assert list(found) == [threading.get_ident()] * 3


def test_who_leaves_early_asks_no_more() -> None:
    """After the first of twenty answers the rest are not begun, but for those on their way."""
    asked: list[int] = []

    def ask() -> None:
        asked.append(1)
        time.sleep(0.01)

    with answers(twice(), [ask] * 20) as found:
        next(found)
    time.sleep(0.1)
    assert len(asked) < 10


def test_what_a_question_raises_is_raised() -> None:
    """The answers before it are heard."""

    def fails() -> int:
        raise SourceError("gone")

    with answers(twice(), [lambda: 1, fails, lambda: 3]) as found:
        assert next(found) == 1
        with pytest.raises(SourceError, match="gone"):
            next(found)


def test_an_early_question_is_under_way_before_its_answer_is_wanted() -> None:
    """It is asked at once of a source that takes several, else when it is called; its error comes then."""
    asked = threading.Event()

    def ask() -> int:
        asked.set()
        return 7

    later = begun(store(), ask)
    assert not asked.wait(0.1)
    assert later() == 7
    asked.clear()
    early = begun(twice(), ask)
    assert asked.wait(10)
    assert early() == 7

    def fails() -> int:
        raise SourceError("gone")

    with pytest.raises(SourceError, match="gone"):
        begun(twice(), fails)()
