"""The messages of remote read but the samples: what is asked, and the labels of what comes.

Source: Prometheus, prompb/remote.proto and types.proto.
"""

from collections.abc import Iterable
from enum import IntEnum
from typing import Final

import cramjam

from llem_integrator.remote_read import wire
from llem_integrator.series.matchers import Matcher

Key = tuple[bytes, ...]
"""A series' labels as they are on the wire."""

HEADERS: Final = {
    "Accept": "application/x-streamed-protobuf, application/x-protobuf",
    "Accept-Encoding": "identity",
    "Content-Encoding": "snappy",
    "Content-Type": "application/x-protobuf",
    "X-Prometheus-Remote-Read-Version": "0.1.0",
}
_OPERATORS: Final = {"=": 0, "!=": 1, "=~": 2, "!~": 3}


class Form(IntEnum):
    """How samples are answered."""

    SAMPLES = 0
    CHUNKS = 1


def request(matchers: Iterable[Matcher], start_ms: int, end_ms: int, form: Form) -> bytes:
    """A ReadRequest of one query, as it is sent; where chunks are asked for, samples do as well."""
    query = wire.number_field(1, start_ms) + wire.number_field(2, end_ms)
    for one in matchers:
        matcher = wire.number_field(1, _OPERATORS[one.operator])
        matcher += wire.bytes_field(2, one.label.encode()) + wire.bytes_field(3, one.value.encode())
        query += wire.bytes_field(3, matcher)
    forms = (Form.CHUNKS, Form.SAMPLES) if form is Form.CHUNKS else (Form.SAMPLES,)
    message = wire.bytes_field(1, query) + b"".join(wire.number_field(2, one) for one in forms)
    return bytes(cramjam.snappy.compress_raw(message))


def labels(key: Key) -> tuple[str, dict[str, str]]:
    """Return the metric's name and the other labels of a series; raises ValueError."""
    found: dict[str, str] = {}
    for message in key:
        pair = {1: "", 2: ""}
        for number, kind, begin, end in wire.fields(message, 0, len(message)):
            if kind is wire.Kind.BYTES:
                pair[number] = message[begin:end].decode("utf-8", "replace")
        found[pair[1]] = pair[2]
    return found.pop("__name__", ""), found
