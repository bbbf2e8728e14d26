"""What is fuzzed of llem-integrate: the forms in which it is asked, and every source that it reads."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC
from functools import cache
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest

from llem_core.errors import ConfigError
from llem_integrator.http import connections
from llem_integrator.stores import parse_selector
from llem_integrator.windows.window import Window, parse_duration_us, parse_time_us, parse_window
from tests.fuzz.command import T0, WINDOW, well_behaved
from tests.fuzz.hostile import HostilePeer, response
from tests.fuzz.target import Target, folder

LABELS: Final = {"gpu": "0", "uuid": "GPU-0", "instance": "n1:9955"}
NOW_US: Final = T0 * 1_000_000


def read_times(data: bytes) -> None:
    """Windows, times and durations, with and without a zone."""
    text = data.decode("utf-8", "surrogateescape")
    for zone in (None, UTC, ZoneInfo("Europe/Berlin")):
        with suppress(ConfigError):
            assert isinstance(parse_window(text, NOW_US, zone), Window)
        with suppress(ConfigError):
            parse_time_us(text, NOW_US, zone)
    with suppress(ConfigError):
        assert parse_duration_us(text) > 0


def read_matchers(data: bytes) -> None:
    """Matchers: what is written out again means the same."""
    with suppress(ConfigError):
        selector = parse_selector(data.decode("utf-8", "replace"))
        assert parse_selector(",".join(map(str, selector))) == selector
        with suppress(ConfigError):  # a regular expression is read when it is applied
            for matcher in selector:
                matcher(LABELS)


def read_openmetrics(data: bytes) -> None:
    """An OpenMetrics file, as it is and as one that is whole."""
    path = folder() / "samples.om"
    for text in (data, data.rstrip(b"\n") + b"\n# EOF\n"):
        path.write_bytes(text)
        well_behaved("--source", str(path), "--window", WINDOW, "--format", "json", "--emissions")
    well_behaved("--source", str(path), "--window", WINDOW)


def ask_prometheus(data: bytes) -> None:
    """A Prometheus whose answers are these bytes, in turn where they hold several lines."""
    bodies = data.split(b"\n")
    answered = iter(range(10**9))

    def answer(target: str) -> Iterable[bytes]:
        if target.startswith("/api/v1/status/buildinfo"):
            return [response(b'{"status": "success", "data": {"version": "3.1.0"}}')]
        return [response(bodies[next(answered) % len(bodies)])]

    peer().answer = answer
    well_behaved("--source", peer().url, "--window", WINDOW, "--format", "json", "--emissions")


def ask_exporter(data: bytes) -> None:
    """An exporter whose history is these bytes."""

    def answer(target: str) -> Iterable[bytes]:
        if target.startswith("/history"):
            return [response(data)]
        return [response(b"llem-exporter" if target.startswith("/?") else b"", 200)]

    peer().answer = answer
    well_behaved("--source", peer().url, "--window", WINDOW, "--format", "json")


def ask_anything(data: bytes) -> None:
    """A peer that answers every request with these bytes, status line and headers included."""
    peer().answer = lambda _: [data]
    with without_patience():
        well_behaved("--source", peer().url, "--window", WINDOW)


@contextmanager
def without_patience() -> Iterator[None]:
    """Retry a broken connection once and at once. Otherwise each example takes seconds."""
    with pytest.MonkeyPatch.context() as ours:
        ours.setattr(connections, "_RETRIES", 1)
        yield


@cache
def peer() -> HostilePeer:
    """The peer of all examples of this process."""
    return HostilePeer().__enter__()


def openmetrics(*, plain: bool = False) -> bytes:
    """A small whole page: a trace, a counter and the facts beside them."""
    labels = ",".join(f'{name}="{value}"' for name, value in LABELS.items())
    lines = ["# TYPE llem_gpu_power_trace_watts gauge"]
    for tick in range(20):
        stamp = f"{T0 + tick / 10:.3f}"
        lines.append(f"llem_gpu_power_trace_watts{{{labels}}} {100 + tick / 8} {stamp}")
        lines.append(f"llem_gpu_zeus_energy_trace_joules_total{{{labels}}} {3e9 + 10 * tick} {stamp}")
    lines.append(f'llem_gpu_info{{{labels},name="H \\"1\\"\\\\"}} 1{"" if plain else f" {T0}.5"}')
    lines.append(f"llem_sampler_interval_seconds 0.1{'' if plain else f' {T0}.5'}")
    return "\n".join([*lines, "# EOF", ""]).encode()


def prometheus_answers() -> tuple[bytes, ...]:
    """Bodies of /api/v1/query: a matrix, a vector, an error, and all of them in turn."""
    values = [[T0 + tick / 10, str(3e9 + tick)] for tick in range(20)]
    metric: dict[str, Any] = {"__name__": "llem_gpu_power_trace_watts", **LABELS}
    answers = [
        {
            "status": "success",
            "data": {"resultType": "matrix", "result": [{"metric": metric, "values": values}]},
        },
        {
            "status": "success",
            "warnings": ["one"],
            "data": {"resultType": "vector", "result": [{"metric": metric, "value": [T0, "700"]}]},
        },
        {
            "status": "error",
            "errorType": "execution",
            "error": "query processing would load too many samples",
        },
    ]
    bodies = tuple(json.dumps(answer).encode() for answer in answers)
    return (*bodies, b"\n".join(bodies))


TARGETS: Final = {
    "times": Target(
        read_times,
        (
            b"now-15m,now",
            b"2026-01-31T12:00:00Z,+15m",
            b"1795507546.5,1795507600",
            b"1h30m",
            b"2026-W05-6T12+01:00",
        ),
    ),
    "matchers": Target(
        read_matchers, (b'{gpu=~"0|1",uuid!="x\\"y"}', b"instance='n1\\u00e9\\x41\\101\\U0001f600'")
    ),
    "openmetrics": Target(read_openmetrics, (openmetrics(), openmetrics(plain=True))),
    "prometheus": Target(ask_prometheus, prometheus_answers()),
    "exporter": Target(ask_exporter, (openmetrics(plain=True), b"# EOF\n")),
    "http": Target(
        ask_anything,
        (response(b"{}"), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
    ),
}
