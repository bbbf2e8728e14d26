"""Frames of a streamed remote read as a real Prometheus sends them, whole and damaged."""

import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import google_crc32c
import pytest

from llem_core.errors import SourceError
from llem_integrator.http.client import Http
from llem_integrator.remote_read import frames, wire
from llem_integrator.remote_read.batch import ChunkBatch, EncodingError, batch
from llem_integrator.remote_read.messages import HEADERS, request
from llem_integrator.series.matchers import Matcher
from llem_integrator.stores import whole
from llem_integrator.stores.prometheus import PrometheusSource
from tests.llem_integrator.remote_read.test_client import END, READ, by_json, by_remote_read
from tests.llem_integrator.stand_ins import Asked, Reply, between
from tests.llem_integrator.traces import POWER, T0, fetch, same, trace_text
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
    asked = request((Matcher("__name__", "=", POWER),), T0, T0 + 150_000)
    return Http(server.url).request("POST", READ, body=asked, headers=HEADERS).body


def messages(body: bytes) -> list[bytes]:
    parts = frames.read_frames(io.BytesIO(body).read)
    return [data[frame.begin : frame.end] for data, found in parts for frame in found]


def alone(message: bytes, number: int = 1) -> ChunkBatch:
    """The chunks of one frame's message."""
    return batch(message, [frames.Frame(number, 0, len(message))])


def framed(*found: bytes) -> bytes:
    return b"".join(
        wire.varint(len(one)) + google_crc32c.value(one).to_bytes(4, "big") + one for one in found
    )


def test_frames_are_the_bodys(body: bytes) -> None:
    """Each frame is read. Written again, the frames equal the body."""
    found = messages(body)
    assert len(found) == 2
    assert framed(*found) == body
    assert [alone(message).samples for message in found] == [1500, 1500]
    ((data, read),) = frames.read_frames(io.BytesIO(body).read)
    together = batch(data, read)
    assert (together.samples, together.counts.tolist()) == (3000, [13, 13])


def bytes_of(message: bytes, number: int) -> list[bytes]:
    """The values of a message's fields of a number."""
    return [
        message[begin:end]
        for field, _, begin, end in wire.fields(message, 0, len(message))
        if field == number
    ]


def test_chunks_with_a_field_of_the_future_are_the_same(body: bytes) -> None:
    """An unknown field, in one chunk or in all, changes no sample."""
    unknown = wire.number_field(15, 7)
    for message in messages(body):
        (series,) = bytes_of(message, 1)
        labels = [wire.bytes_field(1, label) for label in bytes_of(series, 1)]
        chunks = bytes_of(series, 2)
        expected = decoded(message)
        assert len(expected[0]) == 1500
        for changed in (
            [chunk + unknown for chunk in chunks],
            [unknown + chunk for chunk in chunks],
            [*chunks[:5], chunks[5] + unknown, *chunks[6:]],
        ):
            parts = [*labels, *(wire.bytes_field(2, chunk) for chunk in changed)]
            assert decoded(wire.bytes_field(1, b"".join(parts))) == expected


def decoded(message: bytes) -> tuple[list[int], list[float]]:
    """Times and values of a message of one series."""
    found = alone(message)
    ((_, series),) = found.decoded(0, 2**53, "here")
    return series.unix_ms.tolist(), series.values.tolist()


def test_a_frame_cut_anywhere_is_an_error(body: bytes) -> None:
    """If a body ends inside a frame, the error has the number of the frame."""
    (first, second) = messages(body)
    ends = {0: [], len(framed(first)): [first], len(body): [first, second]}
    for size in range(0, len(body) + 1, 7):
        if size not in ends:
            with pytest.raises(frames.FrameError, match=r"frame [12] "):
                messages(body[:size])
    for size, expected in ends.items():
        assert messages(body[:size]) == expected


def test_frames_are_whole_however_they_are_read(body: bytes) -> None:
    """Frames are the same if reads end inside them, or if a frame is longer than several reads."""
    first, second = messages(body)
    times = 2**20 // len(body) + 1
    many = [first, second] * times
    assert messages(framed(*many)) == many
    long = [first * (2 * times), second, second * times]
    assert messages(framed(*long)) == long


def test_any_changed_byte_is_an_error(body: bytes) -> None:
    """Checksums and lengths detect any changed byte."""
    noise = random.Random(1)
    places = [*range(12), *(noise.randrange(len(body)) for _ in range(500))]
    for place in places:
        changed = bytearray(body)
        changed[place] ^= 1 << noise.randrange(8)
        with pytest.raises(frames.FrameError, match=r"frame [12] "):
            messages(bytes(changed))


def test_words_after_the_frames_are_an_error(body: bytes) -> None:
    """Text that a failing server writes after its frames is an error."""
    with pytest.raises(frames.FrameError, match="frame 3 "):
        messages(body + b"some error from the storage\n")


def test_a_message_that_is_none(body: bytes) -> None:
    """A damaged message with a correct checksum gives samples, or an error that names its frame."""
    (message, _) = messages(body)
    noise = random.Random(2)
    said: set[str] = set()
    for _ in range(2000):
        changed = bytearray(message)
        changed[noise.randrange(len(message))] = noise.randrange(256)
        try:
            alone(bytes(changed), 5)
        except (frames.FrameError, EncodingError) as exc:
            said.add(" ".join(str(exc).split()[:2]))
    assert said == {"frame 5", "chunks of"}
    for junk in (b"\x0a", b"\x0a\x05\x12\x03", b"\xff" * 12, b"\x0a\x03\x12\x01\x00", b"\x0b"):
        with pytest.raises(frames.FrameError, match=r"^frame 9 "):
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


def retyping(encoding: int) -> Callable[[Asked, Reply], Reply]:
    """A change of answers: every chunk is said to be of another encoding."""

    def changed(_: Asked, reply: Reply) -> Reply:
        streamed = "streamed" in reply.headers.get("Content-Type", "")
        return Reply(body=retyped(reply.body, encoding), headers=reply.headers) if streamed else reply

    return changed


def test_native_histograms_are_refused(server: Prometheus, subtests: pytest.Subtests) -> None:
    """Native histograms are an error that names them: they have no samples to integrate."""
    for encoding in (2, 3, 5, 6):
        with (
            subtests.test(encoding=encoding),
            between(server.url, retyping(encoding)) as proxy,
            pytest.raises(SourceError, match=f"{POWER} holds native histograms"),
        ):
            fetch(by_remote_read(proxy.url), T0, T0 + 150_000)


def test_an_unknown_encoding_is_asked_for_as_json(server: Prometheus, subtests: pytest.Subtests) -> None:
    """Unknown chunk encodings cost one request. The server's JSON then gives the same samples."""
    expected = fetch(by_remote_read(server.url), T0, T0 + 150_000)
    for encoding in (XOR2, 9, 0):
        with (
            subtests.test(encoding=encoding),
            between(server.url, retyping(encoding)) as proxy,
        ):
            source = by_remote_read(proxy.url)
            assert same(fetch(source, T0, T0 + 150_000), expected)
            fetch(source, T0, T0 + 150_000)
            assert [one.path for one in proxy.asked].count(READ) == 1


def test_an_encoding_that_changes_in_the_middle(traced: Prometheus) -> None:
    """If newer chunks have an unknown encoding, JSON gives the rest. No sample is missing or repeated."""
    answers: list[bytes] = []

    def changed(asked: Asked, reply: Reply) -> Reply:
        if asked.path == READ:
            answers.append(reply.body)
        return retyping(XOR2)(asked, reply) if len(answers) > 1 else reply

    with between(traced.url, changed) as proxy:
        pieces = list(by_remote_read(proxy.url).pieces(POWER, (), T0, END))
    assert len(answers) == 2
    assert [piece.start_ms for piece in pieces[1:]] == [piece.end_ms + 1 for piece in pieces[:-1]]
    assert same(list(whole(pieces)), fetch(by_json(traced.url), T0, END))


@pytest.mark.full
def test_xor2_of_a_real_prometheus(tmp_path: Path, prometheus_release: PrometheusRelease) -> None:
    """The samples of XOR2 chunks equal those of the server's JSON. Older servers write XOR."""
    args = ["--enable-feature=xor2-encoding"]
    config = {"global": {"scrape_interval": "1s"}}
    server = Prometheus.on_blocks(tmp_path, trace_text(100), args=args, release=prometheus_release)
    server.configure([{"job_name": "own", "static_configs": [{"targets": [server.address]}]}], config)
    with server:
        (now,) = server.wait_for("count_over_time(process_start_time_seconds[1m]) >= 3")
        start_ms, end_ms = int(now["value"][0] * 1000) - 60_000, int(now["value"][0] * 1000)
        found, expected = (
            [one for piece in source.pieces("up", (), start_ms, end_ms) for one in piece.series]
            for source in (
                PrometheusSource(Http(server.url)),
                PrometheusSource(Http(server.url), remote_read=False),
            )
        )
    assert len(found[0]) >= 3
    assert same(found, expected)


def test_damage_behind_a_right_checksum_is_an_error(server: Prometheus) -> None:
    """If a chunk cannot be decoded, the error has the server and the frame."""

    def damaged(_: Asked, reply: Reply) -> Reply:
        if "protobuf" not in reply.headers.get("Content-Type", ""):
            return reply
        message = bytearray(messages(reply.body)[1])
        begin = int(alone(bytes(message), 1).offsets[4])
        message[begin : begin + 2] = b"\x7f\xff"  # a sample count of 32767
        return Reply(body=framed(messages(reply.body)[0], bytes(message)), headers=reply.headers)

    words = "frame 2: XOR chunk .* truncated"
    with between(server.url, damaged) as proxy, pytest.raises(SourceError, match=words) as caught:
        fetch(by_remote_read(proxy.url), T0, T0 + 150_000)
    assert proxy.url in str(caught.value)
