"""The answer to a remote read of the type SAMPLES, as arrays.

A sample is 09 and 8 bytes of value, 10 and the time in ms as a varint; a value of 0 is left out. So samples
come in runs of one size, and a run is read at once. Source: Prometheus, prompb/types.proto.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llem_core.errors import SourceError
from llem_integrator.series import Times, Values
from llem_integrator.sources.wire import Kind, fields, read_varint, signed

_SAMPLES_TAG: Final = 0x12
_VALUE_TAG, _TIME_TAG = 0x09, 0x10
_TIME_BYTES: Final = 6
"""Of a time from 2004 to 2109 in ms."""


def timeseries(message: bytes) -> Iterator[tuple[tuple[bytes, ...], Times, Values]]:
    """Labels as on the wire, times (n,) [unix ms] and values (n,) of each series of a ReadResponse.

    Raises ValueError at what is none, and SourceError at native histograms.
    """
    for result, kind, begin, end in fields(message, 0, len(message)):
        if result == 1 and kind is Kind.BYTES:
            for series, inner, at, stop in fields(message, begin, end):
                if series == 1 and inner is Kind.BYTES:
                    yield _series(message, at, stop)


def _series(message: bytes, at: int, end: int) -> tuple[tuple[bytes, ...], Times, Values]:
    labels: list[bytes] = []
    times: list[Times] = [np.zeros(0, np.int64)]
    values: list[Values] = [np.zeros(0)]
    raw = np.frombuffer(message, np.uint8)
    while at < end:
        if message[at] == _SAMPLES_TAG:
            at = _run(message, raw, at, end, times, values)
            continue
        number, kind, begin, at = next(fields(message, at, end))
        if number == 1 and kind is Kind.BYTES:
            labels.append(message[begin:at])
        elif number == 4:
            raise SourceError("a series holds native histograms, which are no samples")
    return tuple(labels), np.concatenate(times), np.concatenate(values)


def _run(
    message: bytes, raw: NDArray[np.uint8], at: int, end: int, times: list[Times], values: list[Values]
) -> int:
    """Samples from `at` on that are laid out alike go into times and values; returns where they end."""
    for value_bytes in (8, 0):
        head = [_SAMPLES_TAG, 1 + _TIME_BYTES + (1 + value_bytes if value_bytes else 0)]
        head += [_VALUE_TAG] if value_bytes else []
        time_at = len(head) + value_bytes
        size = time_at + 1 + _TIME_BYTES
        table = raw[at : at + (end - at) // size * size].reshape(-1, size)
        count = _alike(table, np.array(head, np.uint8), time_at)
        if count:
            table = table[:count]
            times.append(_varints(table[:, time_at + 1 :]))
            values.append(_doubles(table[:, len(head) : time_at]) if value_bytes else np.zeros(count))
            return at + count * size
    _, _, begin, stop = next(fields(message, at, end))
    time, value = _one(message, begin, stop)
    times.append(np.array([time], np.int64))
    values.append(np.array([value]))
    return stop


def _alike(table: NDArray[np.uint8], head: NDArray[np.uint8], time_at: int) -> int:
    """How many of the first rows begin with `head` and have a time of six bytes."""
    if not len(table) or np.any(table[0, : len(head)] != head):
        return 0
    alike = np.all(table[:, : len(head)] == head, axis=1) & (table[:, time_at] == _TIME_TAG)
    alike &= np.all(table[:, time_at + 1 : -1] >= 0x80, axis=1) & (table[:, -1] < 0x80)
    return len(table) if alike.all() else int(alike.argmin())


def _doubles(table: NDArray[np.uint8]) -> Values:
    """Values (n, 8), each little-endian, as numbers (n,)."""
    return np.ascontiguousarray(table).view("<f8")[:, 0].astype(np.float64)


def _varints(table: NDArray[np.uint8]) -> Times:
    """Varints (n, bytes), all of one size, as numbers (n,)."""
    numbers = np.zeros(len(table), np.int64)
    for place in range(table.shape[1]):
        numbers |= (table[:, place].astype(np.int64) & 0x7F) << (7 * place)
    return numbers


def _one(message: bytes, at: int, end: int) -> tuple[int, float]:
    """Time and value of a sample of any form."""
    time, value = 0, 0.0
    for number, kind, begin, stop in fields(message, at, end):
        if number == 1 and kind is Kind.FIXED64:
            value = float(np.frombuffer(message, "<f8", 1, begin)[0])
        elif number == 2 and kind is Kind.VARINT:
            time = signed(read_varint(message, begin, stop)[0])
    return time, value
