"""The ring keeps the newest samples, and cuts them by time."""

from math import isnan

from hypothesis import given
from hypothesis import strategies as st

from llem_measure.sampling.ring import Ring


def test_the_oldest_samples_go_when_the_ring_is_full() -> None:
    """A ring of 3 contains the last 3 of 5 samples, in order."""
    ring = Ring(3)
    for number in range(5):
        ring.append(100 * number, float(number), None)
    trace = ring.copy(-1, 10_000)
    assert (list(trace.times_ms), list(trace.watts)) == ([200, 300, 400], [2, 3, 4])
    assert len(ring) == 3


def test_both_ends_of_a_cut_are_exclusive() -> None:
    """A cut contains the samples with after_ms < time < before_ms."""
    ring = Ring(10)
    for number in range(5):
        ring.append(100 * number, 1.0, 2.0)
    assert list(ring.copy(100, 400).times_ms) == [200, 300]
    assert list(ring.copy(400, 100).times_ms) == []


def test_what_was_not_read_is_nan() -> None:
    """A sample may have only watts or only joules. The other value is NaN."""
    ring = Ring(2)
    ring.append(1, None, 5.0)
    ring.append(2, 7.0, None)
    trace = ring.copy(0, 3)
    assert isnan(trace.watts[0])
    assert isnan(trace.joules[1])
    assert (trace.watts[1], trace.joules[0]) == (7.0, 5.0)


@given(
    capacity=st.integers(1, 9),
    steps=st.lists(st.integers(1, 5), max_size=30),
    after=st.integers(-5, 100),
    before=st.integers(-5, 100),
)
def test_a_ring_is_the_tail_of_a_list(capacity: int, steps: list[int], after: int, before: int) -> None:
    """A cut of a ring equals the same cut of the last `capacity` samples."""
    ring, times = Ring(capacity), list[int]()
    for step in steps:
        times.append((times[-1] if times else 0) + step)
        ring.append(times[-1], float(times[-1]), None)
    wanted = [time for time in times[-capacity:] if after < time < before]
    trace = ring.copy(after, before)
    assert list(trace.times_ms) == wanted == list(trace.watts)
