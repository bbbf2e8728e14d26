"""The ring keeps the newest samples of a GPU under ascending numbers."""

from math import isnan

from hypothesis import given
from hypothesis import strategies as st

from llem_measure.sampling.ring import Ring

ALL = range(10_000)


def ring_of(capacity: int, *times_ms: int) -> Ring:
    ring = Ring(capacity)
    for unix_ms in times_ms:
        ring.append(unix_ms, float(unix_ms), None)
    return ring


def test_a_full_ring_drops_its_oldest_sample() -> None:
    """A ring of 3 contains the last 3 of 5 samples, in order."""
    ring = ring_of(3, 0, 100, 200, 300, 400)
    samples = ring.copy(ALL)
    assert (list(samples.times_ms), list(samples.watts)) == ([200, 300, 400], [200, 300, 400])
    assert ring.held_numbers() == samples.numbers == range(2, 5)


def test_a_copy_has_the_numbers_that_are_held() -> None:
    """A copy contains the held part of a range of numbers, which may be empty."""
    ring = ring_of(3, 0, 100, 200, 300, 400)
    for wanted, held in [
        (range(3, 4), range(3, 4)),
        (range(4), range(2, 4)),
        (range(4, 9), range(4, 5)),
        (range(1), range(2, 2)),
        (range(5, 9), range(5, 5)),
        (range(4, 3), range(4, 4)),
    ]:
        samples = ring.copy(wanted)
        assert (samples.numbers, list(samples.times_ms)) == (held, [100 * number for number in held])


def test_a_number_is_found_by_time() -> None:
    """The time is exclusive. The number of the next sample is returned for the newest time."""
    ring = ring_of(3, 0, 100, 200, 300, 400)
    found = {unix_ms: ring.number_after(unix_ms) for unix_ms in (-1, 199, 200, 299, 399, 400, 9999)}
    assert found == {-1: 2, 199: 2, 200: 3, 299: 3, 399: 4, 400: 5, 9999: 5}


def test_a_value_that_was_not_read_is_nan() -> None:
    """A sample may have only watts or only joules. The other value is NaN."""
    ring = Ring(2)
    ring.append(1, None, 5.0)
    ring.append(2, 7.0, None)
    samples = ring.copy(ALL)
    assert isnan(samples.watts[0])
    assert isnan(samples.joules[1])
    assert (samples.watts[1], samples.joules[0]) == (7.0, 5.0)


def test_numbers_continue_after_a_clear() -> None:
    """A cleared ring is empty. Later samples may have earlier times and get the next numbers."""
    ring = ring_of(3, 1000, 1100)
    ring.clear()
    assert ring.held_numbers() == range(2, 2)
    assert (ring.number_after(0), list(ring.copy(ALL).times_ms)) == (2, [])
    ring.append(500, 1.0, None)
    assert (ring.number_after(0), ring.number_after(500), ring.number_after(1000)) == (2, 3, 3)
    samples = ring.copy(ALL)
    assert (list(samples.times_ms), samples.numbers) == ([500], range(2, 3))


@given(
    capacity=st.integers(1, 9),
    steps=st.lists(st.one_of(st.integers(1, 5), st.none()), max_size=30),
    after=st.integers(-5, 100),
    wanted=st.tuples(st.integers(0, 40), st.integers(0, 40)),
)
def test_a_ring_is_the_tail_of_a_list(
    capacity: int, steps: list[int | None], after: int, wanted: tuple[int, int]
) -> None:
    """A ring is the last `capacity` entries of a list since the last clear (None)."""
    ring, times, cleared = Ring(capacity), list[int](), 0
    for step in steps:
        if step is None:
            ring.clear()
            cleared = len(times)
        else:
            times.append((times[-1] if times else 0) + step)
            ring.append(times[-1], float(times[-1]), None)
    held = range(max(cleared, len(times) - capacity), len(times))
    assert ring.held_numbers() == held
    assert ring.number_after(after) == next((n for n in held if times[n] > after), len(times))
    samples = ring.copy(range(*wanted))
    numbers = [number for number in held if wanted[0] <= number < wanted[1]]
    assert [times[number] for number in numbers] == list(samples.times_ms) == list(samples.watts)
    assert list(samples.numbers) == numbers
