"""What is fuzzed of the stores that do not answer in the query API's JSON: remote read, VictoriaMetrics."""

import json
from base64 import b64decode
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import google_crc32c

from llem_integrator.remote_read import wire
from tests.fuzz.command import T0, WINDOW, well_behaved
from tests.fuzz.hostile import response
from tests.fuzz.integrator_targets import LABELS, peer, without_patience
from tests.fuzz.target import Target

CHUNKS: Final = "Content-Type: application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse"

# What Prometheus 2.42 answers for 20 samples of one series.
_A_CHUNK: Final = b64decode(
    "CpIBCiYKCF9fbmFtZV9fEhpsbGVtX2dwdV9wb3dlcl90cmFjZV93YXR0cwoICgNncHUSATAKEwoIaW5zdGFuY2USB24xOjk5"
    "NTUKDQoEdXVpZBIFR1BVLTASOgiQz9vkoDQQ/N3b5KA0GAEiKAAUoJ63ycFoQFkAAAAAAABk6A3MLS5B9FNFxE9CjQp0KNC4"
    "C/QUNBA="
)


def framed(message: bytes) -> bytes:
    """A message with its length and its right checksum: what is wrong with it is found by who reads it."""
    checksum = bytes(google_crc32c.value(message).to_bytes(4, "big"))
    return wire.varint(len(message)) + checksum + message


def ask_remote_read(kind: str, body: Callable[[bytes], bytes], data: bytes) -> None:
    """A Prometheus whose remote read answers this, and whose queries nothing."""

    def answer(target: str) -> Iterable[bytes]:
        if target.startswith("/api/v1/read"):
            return [response(body(data), 200, kind)]
        if target.startswith("/api/v1/status/buildinfo"):
            return [response(b'{"status": "success", "data": {"version": "2.42.0", "goVersion": "go1.19"}}')]
        return [response(b'{"status": "success", "data": {"resultType": "vector", "result": []}}')]

    peer().answer = answer
    with without_patience():
        well_behaved("--source", peer().url, "--window", WINDOW, "--format", "json")


def ask_victoriametrics(data: bytes) -> None:
    """A VictoriaMetrics whose export is these bytes."""

    def answer(target: str) -> Iterable[bytes]:
        if target.startswith("/api/v1/export"):
            return [response(data)]
        return [response(b'{"status": "success", "data": {"resultType": "vector", "result": []}}')]

    peer().answer = answer
    with without_patience():
        well_behaved("--source", peer().url, "--window", WINDOW, "--format", "json")


def exported() -> bytes:
    """Two lines of an export."""
    metric = {"__name__": "llem_gpu_power_trace_watts", **LABELS}
    times_ms = [1000 * T0 + 100 * tick for tick in range(20)]
    line = {"metric": metric, "values": [100 + tick / 8 for tick in range(20)], "timestamps": times_ms}
    return (json.dumps(line, separators=(",", ":")) + "\n").encode() * 2


def _same(data: bytes) -> bytes:
    return data


TARGETS: Final = {
    "chunks": Target(partial(ask_remote_read, CHUNKS, framed), (_A_CHUNK,)),
    "frames": Target(partial(ask_remote_read, CHUNKS, _same), (framed(_A_CHUNK), framed(_A_CHUNK) * 2)),
    "victoriametrics": Target(ask_victoriametrics, (exported(),)),
}
