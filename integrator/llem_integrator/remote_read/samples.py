"""The answer to a remote read of the type SAMPLES, as arrays.

A sample is 09 and 8 bytes of value, 10 and the time in ms as a varint; a value of 0 is left out. So most
come in long runs of one size, and a run is read at once. Source: Prometheus, prompb/types.proto.
"""

import re
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llem_core.errors import SourceError
from llem_integrator.remote_read.wire import Kind, fields, read_varint, signed
from llem_integrator.series.samples import Times, Values

_SAMPLES_TAG: Final = 0x12
_TIME_BYTES: Final = 6
"""Of a time from 2004 to 2109 in ms."""
_TIME: Final = re.compile(rb"\x10[\x80-\xff]{5}[\x00-\x7f]")
_FULL_HEAD: Final = bytes([_SAMPLES_TAG, 1 + 8 + 1 + _TIME_BYTES, 0x09])
_ZERO_HEAD: Final = bytes([_SAMPLES_TAG, 1 + _TIME_BYTES, 0x10])
_VALUE_AT: Final = len(_FULL_HEAD)
_LAYOUT: Final = np.array([*_FULL_HEAD] + [0] * 8 + [0x10] + [0x80] * 5 + [0], np.uint8)
_LAYOUT_MASK: Final = np.array([0xFF] * 3 + [0] * 8 + [0xFF] + [0x80] * 6, np.uint8)
_SIZE: Final = len(_LAYOUT)
_ZERO_SIZE: Final = _SIZE - 9
_LONG_RUN: Final = 100
_MOST_MIXED: Final = 1000
"""After so many, samples may be alike again."""


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
    table = raw[at : at + (end - at) // _SIZE * _SIZE].reshape(-1, _SIZE)
    count = _alike(table[:_LONG_RUN])
    if count == _LONG_RUN:
        count = _alike(table)
    if count >= _LONG_RUN or (count and at + count * _SIZE == end):
        times.append(_varints(table[:count, -_TIME_BYTES:]))
        values.append(_doubles(table[:count, _VALUE_AT : _VALUE_AT + 8]))
        return at + count * _SIZE
    begins, stop = _mixed(message, at, end)
    if len(begins):
        full = raw[begins + 1] == _SIZE - 2
        ends = begins + np.where(full, _SIZE, _ZERO_SIZE)
        times.append(_varints(raw[ends[:, None] + np.arange(-_TIME_BYTES, 0)]))
        doubles = np.zeros(len(begins))
        doubles[full] = _doubles(raw[begins[full][:, None] + np.arange(_VALUE_AT, _VALUE_AT + 8)])
        values.append(doubles)
        return stop
    _, _, begin, stop = next(fields(message, at, end))
    time, value = _one(message, begin, stop)
    times.append(np.array([time], np.int64))
    values.append(np.array([value]))
    return stop


def _alike(table: NDArray[np.uint8]) -> int:
    """How many of the first rows are samples with a value and a time of six bytes."""
    alike = np.all((table & _LAYOUT_MASK) == _LAYOUT, axis=1)
    return len(table) if alike.all() else int(alike.argmin())


def _mixed(message: bytes, at: int, end: int) -> tuple[NDArray[np.int64], int]:
    """Where samples with and without a value begin, some of them, and where they end."""
    begins: list[int] = []
    while at + _ZERO_SIZE <= end and len(begins) < _MOST_MIXED:
        head = message[at : at + 3]
        size = _SIZE if head == _FULL_HEAD else _ZERO_SIZE if head == _ZERO_HEAD else 0
        if not size or at + size > end or not _TIME.match(message, at + size - _TIME_BYTES - 1):
            break
        begins.append(at)
        at += size
    return np.array(begins, np.int64), at


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
