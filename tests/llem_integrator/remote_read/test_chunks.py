"""XOR chunks that real Prometheus servers wrote, decoded, against what those servers say themselves."""

import math
import tempfile
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from llem_integrator.remote_read.xor import decode
from tests.llem_integrator.remote_read.chunk_blocks import (
    BLOCK_MS,
    T0,
    Samples,
    blocks,
    decoders,
    made_by_promtool,
    openmetrics,
    read_segments,
)
from tests.servers import Prometheus, PrometheusRelease, scrape_config, wait_until

STALE_BITS = 0x7FF0000000000002
PROMETHEUS_NAN_BITS = 0x7FF8000000000001


def bits(values: NDArray[np.float64]) -> list[int]:
    found: list[int] = values.view(np.uint64).tolist()
    return found


def grid(values: list[float], step_ms: int = 100) -> Samples:
    return [(place * step_ms, value) for place, value in enumerate(values)]


def steps(distances_ms: list[int], values: list[float]) -> Samples:
    """Samples whose times lie that far apart."""
    return list(zip(np.cumsum(distances_ms).tolist(), values, strict=True))


def change(dod_ms: int) -> Samples:
    """Samples whose distance is changed by so much, and back."""
    return steps([600_000, 600_000, 600_000 + dod_ms, 600_000], [1.0, 2.0, 2.0, 3.0])


def watts(rng: Random, samples: int) -> list[float]:
    """A square wave with noise, in eighths."""
    return [round(8 * rng.gauss(520 if place % 37 < 15 else 120, 2)) / 8 for place in range(samples)]


def every_kind() -> dict[str, Samples]:
    """Series of all that changes how a chunk is written."""
    rng = Random(20261124)
    jitter = [100 + rng.choice([-2, -1, 0, 1, 2]) for _ in range(1000)]
    # Where a dod takes the next size: 14, 17, 20 and 64 bits.
    dods = [half + more for half in (1 << 13, 1 << 16, 1 << 19) for more in (-1, 0, 1)] + [1, 4_000_000]
    hard = [
        0.0,
        -0.0,
        math.inf,
        -math.inf,
        5e-324,
        -2.5e-310,
        1.7976931348623157e308,
        -1.5,
        math.pi,
        math.nan,
    ]
    return {
        "power": grid(watts(rng, 5000)),
        "milliwatts": grid([round(rng.gauss(300, 15), 3) for _ in range(5000)]),
        "integers": grid([float(rng.randrange(-500, 500)) for _ in range(1000)]),
        "constant": grid([72.0] * 1000),
        "any bits": grid([rng.uniform(-1, 1) * 10.0 ** rng.randrange(-300, 300) for _ in range(1000)]),
        "hard": grid([rng.choice(hard) for _ in range(1000)]),
        "nan among numbers": grid([math.nan if place % 3 else 1.25 for place in range(500)]),
        "jitter": steps(jitter, watts(rng, 1000)),
        "counter with resets": grid([float(place % 400) * 12.5 for place in range(1000)]),
        "gaps": steps([rng.choice([100, 100, 15_000, 700_000]) for _ in range(18)], watts(rng, 18)),
        **{f"distance changed by {dod_ms} ms": change(dod_ms) for dod_ms in dods},
        "one": grid([1.5]),
        "two": grid([1.5, -1.5]),
        "two alike": grid([1.5, 1.5]),
        **{f"{length} samples": grid(watts(rng, length)) for length in (119, 120, 121, 240, 241)},
    }


def expected(series: dict[str, Samples]) -> tuple[list[int], list[int]]:
    """Times, and values as bits, series by series in their names' order."""
    samples = [sample for _, samples in sorted(series.items()) for sample in samples]
    values = np.array([value for _, value in samples])
    values.view(np.uint64)[np.isnan(values)] = PROMETHEUS_NAN_BITS
    return [T0 + ms for ms, _ in samples], bits(values)


@pytest.fixture(scope="module")
def page() -> dict[str, Samples]:
    return every_kind()


def test_decoded_equals_what_the_server_says(
    tmp_path: Path, page: dict[str, Samples], prometheus_release: PrometheusRelease, servers: ExitStack
) -> None:
    """With both decoders, times and values of every kind equal the server's JSON."""
    prometheus = Prometheus.on_blocks(tmp_path, openmetrics(page), release=prometheus_release)
    servers.enter_context(prometheus)
    answer = prometheus.query("m[3h]", (T0 + BLOCK_MS) / 1000)
    answer.sort(key=lambda one: one["metric"]["s"])
    said = [sample for one in answer for sample in one["values"]]
    (block,) = blocks(prometheus.data)
    chunks = read_segments(block)
    for decode_into in decoders().values():
        times, values, counts = decode(chunks.data, chunks.offsets, chunks.lengths, decode_into=decode_into)
        assert times.tolist() == [round(unix_s * 1000) for unix_s, _ in said]
        assert [repr(value) for value in values.tolist()] == [repr(float(value)) for _, value in said]
        assert (times.tolist(), bits(values)) == expected(page)
        assert int(counts.sum()) == len(said)


VALUES = st.one_of(
    st.floats(),
    st.floats(0, 1000).map(lambda watts: round(watts * 8) / 8),
    st.integers(-(2**53), 2**53).map(float),
    st.sampled_from([0.0, -0.0, 72.0, math.nan]),
)
DISTANCES_MS = st.one_of(st.just(100), st.integers(1, 300), st.integers(1, 2_000_000))


@st.composite
def some_series(draw: st.DrawFn) -> Samples:
    """Runs of equal distances and of equal values, of any length, within a block."""
    samples, ms = list[tuple[int, float]](), draw(st.integers(0, 10_000))
    for _ in range(draw(st.integers(1, 12))):
        distance_ms, value = draw(DISTANCES_MS), draw(VALUES)
        for other in draw(st.lists(VALUES, min_size=1, max_size=3)) * draw(st.integers(1, 40)):
            if ms < BLOCK_MS:
                samples.append((ms, draw(st.sampled_from([value, other]))))
            ms += distance_ms
    return samples


@settings(max_examples=settings().max_examples // 4)
@given(st.lists(some_series(), min_size=1, max_size=8))
def test_any_series_comes_back(series: list[Samples]) -> None:
    """With both decoders, any series written by promtool is decoded bit for bit."""
    named = {f"{place:02}": samples for place, samples in enumerate(series)}
    with tempfile.TemporaryDirectory() as directory:
        chunks = made_by_promtool(Path(directory), named)
    for decode_into in decoders().values():
        times, values, _ = decode(chunks.data, chunks.offsets, chunks.lengths, decode_into=decode_into)
        assert (times.tolist(), bits(values)) == expected(named)


class VanishingTarget(BaseHTTPRequestHandler):
    """A page whose series m is there in every other scrape."""

    scrapes = 0

    def do_GET(self) -> None:
        number, VanishingTarget.scrapes = VanishingTarget.scrapes, VanishingTarget.scrapes + 1
        body = f"m {number}.5\n".encode() if number % 2 == 0 else b"n 1\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_stale_markers_keep_their_bits(
    tmp_path: Path, prometheus_release: PrometheusRelease, servers: ExitStack
) -> None:
    """A series that disappears and returns has a stale marker between its values, bit for bit."""
    VanishingTarget.scrapes = 0
    target = servers.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), VanishingTarget))
    threading.Thread(target=target.serve_forever, daemon=True).start()
    servers.callback(target.shutdown)
    keep = {"source_labels": ["__name__"], "regex": "m", "action": "keep"}
    job = scrape_config(
        "m", f"127.0.0.1:{target.server_port}", interval="200ms", metric_relabel_configs=[keep]
    )
    prometheus = servers.enter_context(Prometheus(tmp_path, [job], release=prometheus_release))
    wait_until(lambda: VanishingTarget.scrapes > 5, "five scrapes")
    prometheus.fetch_text("/api/v1/admin/tsdb/snapshot", method="POST")
    (block,) = (prometheus.data / "snapshots").glob("*/*/chunks/..")
    chunks = read_segments(block)
    for decode_into in decoders().values():
        _, values, counts = decode(chunks.data, chunks.offsets, chunks.lengths, decode_into=decode_into)
        m = bits(values[: counts[0]])  # the first in label order: `m`, before `scrape_...` and `up`
        assert m[1::2] == [STALE_BITS] * (len(m) // 2)
        assert np.array(m[::2]).view(np.float64).tolist() == [0.5 + 2 * place for place in range(len(m[::2]))]
        assert len(m) >= 4
