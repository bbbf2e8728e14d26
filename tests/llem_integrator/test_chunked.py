"""Frames of a streamed remote read as a real Prometheus sends them, whole and damaged."""

import io
import random
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import pytest

from llem_core.errors import SourceError
from llem_integrator.sources import chunked, wire
from llem_integrator.sources.batch import Batch, batch
from llem_integrator.sources.http import Http
from llem_integrator.sources.matchers import Matcher
from llem_integrator.sources.prometheus import PrometheusSource
from llem_integrator.sources.read_protocol import HEADERS, Form, request
from tests.llem_integrator.stand_ins import Asked, Reply, between
from tests.llem_integrator.test_remote_read import READ, by_remote_read, same
from tests.llem_integrator.traces import POWER, T0, fetch, trace_text
from tests.servers import Prometheus, PrometheusRelease

TYPE_FIELD = b"\x18"
XOR2 = 4


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, prometheus_release: PrometheusRelease
) -> Iterator[Prometheus]:
    directory = tmp_path_factory.mktemp("prometheus")
    with Prometheus.on_blocks(directory, trace_text(1500), release=prometheus_release) as running:
        yield running


@pytest.fixture
def body(server: Prometheus) -> bytes:
    """What it answers for both GPUs: two frames."""
    asked = request((Matcher("__name__", "=", POWER),), T0, T0 + 150_000, Form.CHUNKS)
    return Http(server.url).request("POST", READ, body=asked, headers=HEADERS).body


def messages(body: bytes) -> list[bytes]:
    parts = chunked.frames(io.BytesIO(body).read)
    return [data[frame.begin : frame.end] for data, found in parts for frame in found]


def alone(message: bytes, number: int = 1) -> Batch:
    """The chunks of one frame's message."""
    return batch(message, [chunked.Frame(number, 0, len(message))])


def framed(*found: bytes) -> bytes:
    return b"".join(
        wire.varint(len(one)) + google_crc32c.value(one).to_bytes(4, "big") + one for one in found
    )


def test_frames_are_the_bodys(body: bytes) -> None:
    """Each frame is read, and written again is what came; both ways to find the chunks agree."""
    found = messages(body)
    assert len(found) == 2
    assert framed(*found) == body
    assert [alone(message, 1).samples for message in found] == [1500, 1500]
    ((data, frames),) = chunked.frames(io.BytesIO(body).read)
    together = batch(data, frames)
    assert (together.samples, together.counts.tolist()) == (3000, [13, 13])
    at_once = chunked._at_once(together.data, together.sections)
    assert at_once is not None
    one_by_one = [place for one in together.sections for place in chunked._each(together.data, one)]
    assert list(zip(*(one.tolist() for one in at_once[:2]), strict=True)) == one_by_one


def test_a_frame_cut_anywhere_is_an_error(body: bytes) -> None:
    """At the end of a frame nothing is wrong with it; anywhere else it says which frame is cut short."""
    (first, second) = messages(body)
    ends = {0: [], len(framed(first)): [first], len(body): [first, second]}
    for size in range(0, len(body) + 1, 7):
        if size not in ends:
            with pytest.raises(chunked.FrameError, match=r"frame [12] "):
                messages(body[:size])
    for size, expected in ends.items():
        assert messages(body[:size]) == expected


@pytest.mark.parametrize("block", [1, 10, 1000])
def test_frames_are_whole_however_they_are_read(
    body: bytes, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames longer and shorter than what is read at once come out alike."""
    whole = messages(body)
    monkeypatch.setattr(chunked, "_BLOCK", block)
    assert messages(body) == whole
    for data, found in chunked.frames(io.BytesIO(body * 2).read):
        cut = tuple(section for frame in found for section in chunked.sections(data, frame))
        assert chunked._at_once(data, cut) is not None  # whatever of the next frame is there as well


def test_any_changed_byte_is_an_error(body: bytes) -> None:
    """A checksum lets no changed byte pass, nor does a length."""
    noise = random.Random(1)
    places = [*range(12), *(noise.randrange(len(body)) for _ in range(500))]
    for place in places:
        changed = bytearray(body)
        changed[place] ^= 1 << noise.randrange(8)
        with pytest.raises(chunked.FrameError, match=r"frame [12] "):
            messages(bytes(changed))


def test_words_after_the_frames_are_told(body: bytes) -> None:
    """A server that fails in the middle writes its error behind the frames."""
    with pytest.raises(chunked.FrameError, match="frame 3 "):
        messages(body + b"some error from the storage\n")


def test_a_message_that_is_none(body: bytes) -> None:
    """What a right checksum covers may still be no list of chunks; each damage is a FrameError or samples."""
    (message, _) = messages(body)
    noise = random.Random(2)
    said: set[str] = set()
    for _ in range(2000):
        changed = bytearray(message)
        changed[noise.randrange(len(message))] = noise.randrange(256)
        try:
            alone(bytes(changed), 5)
        except (chunked.FrameError, chunked.EncodingError) as exc:
            said.add(" ".join(str(exc).split()[:2]))
    assert said == {"frame 5", "chunks of"}
    for junk in (b"\x0a", b"\x0a\x05\x12\x03", b"\xff" * 12, b"\x0a\x03\x12\x01\x00", b"\x0b"):
        with pytest.raises(chunked.FrameError, match=r"^frame 9 "):
            alone(junk, 9)


def retyped(body: bytes, encoding: int) -> bytes:
    """The frames, every chunk said to be of another encoding."""
    found = []
    for message in messages(body):
        changed = bytearray(message)
        for offset in alone(message, 1).offsets.tolist():
            place = message.rindex(TYPE_FIELD + b"\x01\x22", 0, offset)
            changed[place + 1] = encoding
        found.append(bytes(changed))
    return framed(*found)


def of_encoding(reply: Reply, encoding: int) -> Reply:
    streamed = "streamed" in reply.headers.get("Content-Type", "")
    return Reply(body=retyped(reply.body, encoding), headers=reply.headers) if streamed else reply


@pytest.mark.parametrize("encoding", [2, 3, 5, 6])
def test_native_histograms_are_refused(server: Prometheus, encoding: int) -> None:
    """Histograms have no samples to integrate, and the error says what they are."""
    with (
        between(server.url, lambda _, reply: of_encoding(reply, encoding)) as proxy,
        pytest.raises(SourceError, match=f"{POWER} holds native histograms"),
    ):
        fetch(by_remote_read(proxy.url), T0, T0 + 150_000)


@pytest.mark.parametrize("encoding", [XOR2, 9, 0])
def test_an_unknown_encoding_is_asked_for_as_samples(server: Prometheus, encoding: int) -> None:
    """Chunks that are not read here cost one request: the server decodes them itself."""
    with between(server.url, lambda _, reply: of_encoding(reply, encoding)) as proxy:
        source = by_remote_read(proxy.url)
        found = fetch(source, T0, T0 + 150_000)
        fetch(source, T0, T0 + 150_000)
        assert [one.path for one in proxy.asked].count(READ) == 3
    assert same(found, fetch(by_remote_read(server.url), T0, T0 + 150_000))


def test_xor2_of_a_real_prometheus(tmp_path: Path, prometheus_release: PrometheusRelease) -> None:
    """Where a server writes XOR2 chunks its samples are those of its JSON; older ones write XOR."""
    args = ["--enable-feature=xor2-encoding"]
    config = {"global": {"scrape_interval": "1s"}}
    server = Prometheus.on_blocks(tmp_path, trace_text(100), args=args, release=prometheus_release)
    server.configure([{"job_name": "own", "static_configs": [{"targets": [server.address]}]}], config)
    with server:
        (now,) = server.wait_for("count_over_time(process_start_time_seconds[1m]) >= 3")
        start_ms, end_ms = int(now["value"][0] * 1000) - 60_000, int(now["value"][0] * 1000)
        found, expected = (
            [one for piece in source.pieces("up", (), start_ms, end_ms, print) for one in piece.series]
            for source in (
                PrometheusSource(Http(server.url)),
                PrometheusSource(Http(server.url), remote_read=False),
            )
        )
    assert len(found[0]) >= 3
    assert same(found, expected)


@pytest.mark.parametrize("place", ["frame", "samples", "snappy"])
def test_damage_behind_a_right_checksum_is_an_error(server: Prometheus, place: str) -> None:
    """Chunks that do not decode, and samples that are none, name the server and the frame."""

    def damaged(_: Asked, reply: Reply) -> Reply:
        if "protobuf" not in reply.headers.get("Content-Type", ""):
            return reply
        if place != "frame":
            cut = len(reply.body) // 2
            return Reply(
                body=reply.body[:cut] + (b"" if place == "samples" else b"\xff" * 9), headers=reply.headers
            )
        message = bytearray(messages(reply.body)[1])
        begin = int(alone(bytes(message), 1).offsets[4])
        message[begin : begin + 2] = b"\x7f\xff"  # it says it has 32767 samples
        return Reply(body=framed(messages(reply.body)[0], bytes(message)), headers=reply.headers)

    form = Form.CHUNKS if place == "frame" else Form.SAMPLES
    words = "frame 2: XOR chunk .* truncated" if place == "frame" else "remote read: not "
    with between(server.url, damaged) as proxy, pytest.raises(SourceError, match=words) as caught:
        fetch(by_remote_read(proxy.url, form), T0, T0 + 150_000)
    assert proxy.url in str(caught.value)
