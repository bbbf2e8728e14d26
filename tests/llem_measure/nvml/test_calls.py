"""Driver calls that may never return."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

import pytest

from llem_core.errors import DeviceError
from llem_measure.nvml import calls
from llem_measure.nvml.calls import NoAnswerError, call, call_all, note_asked

SHORT_S = 0.05
# Each test has GPUs of its own: what has answered is remembered for the whole process.
indices = count(1000)


@contextmanager
def stuck() -> Iterator[Callable[[], object]]:
    """A call that does not return before the end of the test."""
    event = threading.Event()
    try:
        yield event.wait
    finally:
        event.set()


def test_a_call_that_returns_in_time_has_its_result() -> None:
    """None is a result, too."""
    assert call(next(indices), lambda: 7, 30.0) == 7
    assert call(next(indices), lambda: None, 30.0) is None


def test_the_first_call_may_take_the_drivers_time() -> None:
    """If it takes longer, the error names the GPU and the time."""
    index = next(indices)
    with stuck() as never, pytest.raises(NoAnswerError, match=f"GPU {index} hangs: .* for 0.05 s"):
        call(index, never, SHORT_S)


def test_a_gpu_that_hangs_is_waited_for_once() -> None:
    """After a call that did not return in the driver's time, the next one has 2 s."""
    index = next(indices)
    for timeout_s, waited in ((SHORT_S, "0.05 s"), (30.0, "2 s")):
        with stuck() as never, pytest.raises(NoAnswerError, match=f"GPU {index} hangs: .* for {waited}"):
            call(index, never, timeout_s)


@pytest.mark.parametrize("asked", ["call", "note_asked"])
def test_a_later_call_may_take_two_seconds(asked: str) -> None:
    """A GPU that has answered has loaded its driver, so it is not waited for as long as the first time."""
    index = next(indices)
    if asked == "call":
        call(index, lambda: 7, 30.0)
    else:
        note_asked(index)
    with stuck() as never, pytest.raises(NoAnswerError, match=f"GPU {index} hangs: .* for 2 s"):
        call(index, never, 600.0)


def test_a_call_on_the_driver_itself_names_nvml() -> None:
    """None is no GPU."""
    error = calls.no_answer(None, 60.0)
    assert str(error) == "the NVIDIA driver hangs: NVML has not answered for 60 s; see dmesg"


@pytest.mark.parametrize("error", [DeviceError("gone", "NVML_ERROR_GPU_IS_LOST"), KeyError("odd")])
def test_an_exception_is_raised_as_it_is(error: Exception) -> None:
    """It is an answer: the next call has the shorter time."""
    index = next(indices)

    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as failure:
        call(index, fail, 30.0)
    assert failure.value is error
    with stuck() as never, pytest.raises(NoAnswerError, match="for 2 s"):
        call(index, never, 600.0)


def test_calls_that_hang_are_left_out() -> None:
    """All calls are made at once. A call that fails has its exception as its result."""
    error = KeyError("odd")

    def fail() -> int:
        raise error

    with stuck() as never:
        calls_by_gpu: dict[int, Callable[[], object]] = {0: never, 1: lambda: 7, 2: fail, 3: never}
        assert call_all(calls_by_gpu, 1.0) == {1: 7, 2: error}
    assert call_all({0: lambda: None}, 30.0) == {0: None}
    assert call_all({}, 0.0) == {}
