"""The answer of the type SAMPLES: what was written comes back, whatever its form, and junk is refused."""

import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llem_core.errors import SourceError
from llem_integrator.remote_read import samples, wire
from llem_integrator.remote_read.messages import labels

Samples = list[tuple[int, float]]

DAY = 1_795_507_546_000
usual_times = st.integers(DAY, DAY + 10**7)
any_time = st.one_of(usual_times, usual_times, st.integers(-(2**63), 2**63 - 1))
value = st.one_of(st.just(0.0), st.floats(width=64), st.integers(0, 500).map(float))


def written(*columns: Samples) -> bytes:
    """A ReadResponse as Prometheus writes it: fields that are 0 are left out."""
    result = b""
    for number, found in enumerate(columns):
        series = wire.bytes_field(1, wire.bytes_field(1, b"gpu") + wire.bytes_field(2, str(number).encode()))
        for unix_ms, one in found:
            sample = b"\x09" + struct.pack("<d", one) if struct.pack("<d", one) != bytes(8) else b""
            sample += wire.number_field(2, unix_ms) if unix_ms else b""
            series += wire.bytes_field(2, sample)
        result += wire.bytes_field(1, series)
    return wire.bytes_field(1, result)


@given(st.lists(st.lists(st.tuples(any_time, value), max_size=40), max_size=3), st.integers(1, 60))
@example([[(DAY, 1.0)] * 150 + [(DAY, 0.0)] * 150, [(DAY + 1, 2.0)] * 130 + [(0, 0.0)]], 1)
@example([[(DAY, float(i % 2)) for i in range(3000)]], 1)
def test_what_was_written_is_read(columns: list[Samples], times: int) -> None:
    """Times and values are equal to the bit, for long and mixed runs, in every encoding."""
    repeated = [found * times for found in columns]
    read = list(samples.timeseries(written(*repeated)))
    assert [labels(key)[1] for key, _, _ in read] == [{"gpu": str(n)} for n in range(len(columns))]
    for found, (_, unix_ms, values) in zip(repeated, read, strict=True):
        assert unix_ms.tolist() == [ms for ms, _ in found]
        bits = np.array([one for _, one in found], np.float64).view(np.uint64)
        assert values.view(np.uint64).tolist() == bits.tolist()


@given(st.binary(max_size=80))
def test_any_bytes_are_samples_or_refused(message: bytes) -> None:
    """No bytes raise another exception."""
    with suppress(ValueError, SourceError):
        list(samples.timeseries(message))


def test_a_cut_answer_is_refused() -> None:
    """A message that is truncated anywhere is an error."""
    whole = written([(DAY + i, 5.0) for i in range(50)])
    for size in range(3, len(whole)):
        with pytest.raises(ValueError, match="byte"):
            list(samples.timeseries(whole[:size]))


def test_native_histograms_are_refused() -> None:
    """Native histograms have no samples to integrate."""
    series = wire.bytes_field(1, wire.bytes_field(1, b"a")) + wire.bytes_field(4, b"\x08\x01")
    with pytest.raises(SourceError, match="native histograms"):
        list(samples.timeseries(wire.bytes_field(1, wire.bytes_field(1, series))))
