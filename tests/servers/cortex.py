"""Cortex in one process, as built by `tests/run --full`. Mimir came from it, and has the same API."""

import json
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cramjam
import urllib3

from tests.servers.process import Server, ServerError, built_program, free_port


class Cortex(Server):
    """A Cortex whose data is in `directory`. Each request needs the header `X-Scope-OrgID`.

    `tenants` gives tenants their own limits. `querier` adds keys to this part of the configuration.
    """

    def __init__(
        self,
        directory: Path,
        *,
        tenants: Mapping[str, Mapping[str, Any]] | None = None,
        querier: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._directory = directory
        config = {
            "server": {
                "http_listen_address": "127.0.0.1",
                "http_listen_port": self.port,
                "grpc_listen_address": "127.0.0.1",
                "grpc_listen_port": free_port(),
            },
            "ingester": {
                "lifecycler": {
                    "address": "127.0.0.1",
                    "min_ready_duration": "0s",
                    "final_sleep": "0s",
                    "ring": {"kvstore": {"store": "inmemory"}, "replication_factor": 1},
                }
            },
            "blocks_storage": _in_folder("blocks"),
            "ruler_storage": _in_folder("rules"),
            "alertmanager": {"external_url": self.url},
            "alertmanager_storage": _in_folder("alerts"),
            "querier": dict(querier or {}),
            "runtime_config": {"file": "limits.yml"},
        }
        # JSON is YAML.
        (directory / "cortex.yml").write_text(json.dumps(config))
        (directory / "limits.yml").write_text(json.dumps({"overrides": dict(tenants or {})}))

    @property
    def prometheus_url(self) -> str:
        """The URL of its Prometheus API."""
        return f"{self.url}/prometheus"

    def write(self, openmetrics: str, tenant: str) -> None:
        """Store the samples of an OpenMetrics text by remote write."""
        body = bytes(cramjam.snappy.compress_raw(_write_request(openmetrics)))
        headers = {
            "X-Scope-OrgID": tenant,
            "Content-Encoding": "snappy",
            "Content-Type": "application/x-protobuf",
            "X-Prometheus-Remote-Write-Version": "0.1.0",
        }
        reply = urllib3.request("POST", f"{self.url}/api/v1/push", body=body, headers=headers, retries=False)
        if reply.status != 200:
            raise ServerError(f"Cortex answered {reply.status} to remote write: {reply.data.decode()}")

    def _command(self) -> Sequence[str]:
        # It writes into its working directory.
        return ["env", f"--chdir={self._directory}", built_program("cortex"), "-config.file=cortex.yml"]

    def _ready(self) -> bool:
        return self._answers("/ready")


def _in_folder(name: str) -> dict[str, Any]:
    return {"backend": "filesystem", "filesystem": {"dir": name}}


def _write_request(openmetrics: str) -> bytes:
    """Return the WriteRequest with the samples of an OpenMetrics text.

    Source: https://prometheus.io/docs/specs/prw/remote_write_spec/
    """
    series: dict[str, list[bytes]] = {}
    for line in openmetrics.splitlines():
        if not line.startswith("#"):
            name, value, unix_s = line.rsplit(" ", 2)
            unix_ms = round(float(unix_s) * 1000)
            sample = b"\x09" + struct.pack("<d", float(value)) + b"\x10" + _varint(unix_ms)
            series.setdefault(name, []).append(_message(2, sample))
    return b"".join(_message(1, _labels(name) + b"".join(samples)) for name, samples in series.items())


def _labels(series: str) -> bytes:
    """Return the labels of `name{label="value",...}` in the order that the protocol prescribes."""
    name, _, rest = series.partition("{")
    pairs = {"__name__": name, **dict(re.findall(r'(\w+)="([^"]*)"', rest))}
    return b"".join(
        _message(1, _message(1, label.encode()) + _message(2, value.encode()))
        for label, value in sorted(pairs.items())
    )


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*digits, number))
