"""The request of a remote read, and the labels of its response.

Source: Prometheus, prompb/remote.proto and types.proto.
"""

from collections.abc import Iterable
from typing import Final

import cramjam

from llem_integrator.remote_read import wire
from llem_integrator.series.matchers import Matcher

WireLabels = tuple[bytes, ...]
"""The labels of a series as encoded Label messages."""

HEADERS: Final = {
    "Accept": "application/x-streamed-protobuf",
    "Accept-Encoding": "identity",
    "Content-Encoding": "snappy",
    "Content-Type": "application/x-protobuf",
    "X-Prometheus-Remote-Read-Version": "0.1.0",
}
_OPERATORS: Final = {"=": 0, "!=": 1, "=~": 2, "!~": 3}
_STREAMED_XOR_CHUNKS: Final = 1


def request(matchers: Iterable[Matcher], start_ms: int, end_ms: int) -> bytes:
    """Return the compressed ReadRequest of one query. It accepts streamed XOR chunks only."""
    query = wire.number_field(1, start_ms) + wire.number_field(2, end_ms)
    for matcher in matchers:
        message = wire.number_field(1, _OPERATORS[matcher.operator])
        message += wire.bytes_field(2, matcher.label.encode()) + wire.bytes_field(3, matcher.value.encode())
        query += wire.bytes_field(3, message)
    message = wire.bytes_field(1, query) + wire.number_field(2, _STREAMED_XOR_CHUNKS)
    return bytes(cramjam.snappy.compress_raw(message))


def labels(encoded: WireLabels) -> tuple[str, dict[str, str]]:
    """Return the metric name and the labels; raises ValueError if they are invalid."""
    decoded: dict[str, str] = {}
    for message in encoded:
        pair = {1: "", 2: ""}
        for number, wire_type, begin, end in wire.fields(message, 0, len(message)):
            if wire_type is wire.WireType.BYTES:
                pair[number] = message[begin:end].decode("utf-8", "replace")
        decoded[pair[1]] = pair[2]
    return decoded.pop("__name__", ""), decoded
