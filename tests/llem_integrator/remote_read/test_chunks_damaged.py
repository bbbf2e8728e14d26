"""XOR chunks that are cut off, altered or made up: an error that names the chunk, and nothing worse."""

import struct
import subprocess
import sys
from itertools import product
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llem_core.errors import ChunkError, SourceError
from llem_integrator.remote_read.xor import decode
from llem_integrator.remote_read.xor.layout import ChunkFault
from tests.llem_integrator.remote_read.chunk_blocks import Chunks, decoders, made_by_promtool, packed

ROOT = Path(__file__).parents[3]


def varint(number: int) -> bytes:
    """An unsigned varint, of as many bytes as the number asks for."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def bit_bytes(text: str) -> bytes:
    """Bits written as 0 and 1, filled up with zeros."""
    text = text.replace(" ", "")
    return bytes(int(text[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(text), 8))


def chunk(count: int, *parts: bytes, unix_ms: int = 1000, value: float = 1.0) -> bytes:
    """A chunk written by hand: its first sample, and what follows."""
    return struct.pack(">H", count) + varint(2 * unix_ms) + struct.pack(">d", value) + b"".join(parts)


GOOD = chunk(3, varint(100), bit_bytes("0 0 0"))
DAMAGED = {
    "nothing": (b"", "truncated: 0 bytes have no sample count"),
    "half a count": (b"\x00", "truncated: 1 bytes have no sample count"),
    "no samples": (b"\x00\x00", "its sample count is 0"),
    "count alone": (b"\x00\x01", "truncated: 2 bytes are too few for 1 samples"),
    "cut in the first value": (chunk(1)[:-1], "truncated: it ends before its last sample"),
    "cut behind the first": (chunk(2), "truncated: 12 bytes are too few"),
    "count lies": (chunk(65535, varint(100), bytes(30)), "too few for 65535 samples"),
    "count lies a little": (
        chunk(9, varint(100), bit_bytes("11 00000 000000")),
        "it ends before its last sample",
    ),
    "first varint without end": (
        b"\x00\x01" + b"\xff" * 30,
        "a varint is longer than 64 bits",
    ),
    "first varint of 65 bits": (
        b"\x00\x01" + b"\xff" * 9 + b"\x02" + bytes(8),
        "a varint is longer than 64 bits",
    ),
    "first varint of 65 bits, and a value cut off": (
        b"\x00\x01" + b"\xff" * 9 + b"\x02" + bytes(2),
        "a varint is longer than 64 bits",
    ),
    "second varint of 65 bits": (
        chunk(2, b"\x80" * 9 + b"\x02", bytes(9)),
        "a varint is longer than 64 bits",
    ),
    "second varint of 65 bits, and a window": (
        chunk(2, b"\x80" * 9 + b"\x02", bit_bytes("11 00000 000001 1")),
        "a varint is longer than 64 bits",
    ),
    "window of 65 bits": (
        chunk(2, varint(100), bit_bytes("11 00010 111111"), bytes(20)),
        "the window of a value is wider than 64 bits",
    ),
    "window of 65 bits in the last bits": (
        chunk(5, varint(100), bit_bytes("11 00000 000001 1  00 00  0 11 00010 111111")),
        "the window of a value is wider than 64 bits",
    ),
    "window of 65 bits behind the last bits": (
        chunk(5, varint(100), bit_bytes("11 00000 000001 1  00 00  0 11 00010 111111")[:-1]),
        "it ends before its last sample",
    ),
    "bits run out in a varint": (chunk(2, b"\xff\xff"), "truncated: it ends before its last sample"),
    "bits run out in a window": (
        chunk(2, varint(100), bit_bytes("111111 11")),
        "it ends before its last sample",
    ),
    "bits run out in a dod": (chunk(3, varint(100), bit_bytes("0 1111")), "it ends before its last sample"),
}


@pytest.fixture(params=["numpy", "numba"])
def decoder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_error_names_the_chunk_and_what_is_wrong(decoder: str, subtests: pytest.Subtests) -> None:
    """The message has the number and the offset of the chunk, and the fault."""
    for (name, (payload, words)), behind in product(DAMAGED.items(), (b"", b"\xff" * 100)):
        chunks = packed([GOOD, GOOD, payload, GOOD])
        with subtests.test(name=name, behind=behind):
            with pytest.raises(SourceError) as caught:
                decode(chunks.data + behind, chunks.offsets, chunks.lengths, decode_into=decoders()[decoder])
            assert str(caught.value).startswith(f"XOR chunk 2 at byte {2 * len(GOOD)}: ")
            assert words in str(caught.value)
            assert isinstance(caught.value, ChunkError)
            assert (caught.value.chunk, caught.value.offset) == (2, 2 * len(GOOD))


@pytest.mark.parametrize(("offset", "length"), [(-1, 20), (0, 1000), (10_000, 20), (3, -5), (0, 2**63 - 1)])
def test_chunk_outside_the_buffer_is_refused(offset: int, length: int) -> None:
    """A position that is not completely inside the buffer is an error."""
    places = np.array([0, offset]), np.array([len(GOOD), length])
    with pytest.raises(ChunkError, match=rf"XOR chunk 1 at byte {offset}: truncated"):
        decode(GOOD, *places)


def test_every_truncation_is_an_error(decoder: str, real: Chunks) -> None:
    """A real chunk that is truncated at any byte is an error."""
    whole = real.payload(0)
    for length in range(len(whole)):
        with pytest.raises(ChunkError, match="XOR chunk 0 at byte 0"):
            decode(whole[:length], np.array([0]), np.array([length]), decode_into=decoders()[decoder])


def test_time_may_go_backwards(decoder: str) -> None:
    """Falling times are valid. The caller sorts them."""
    back = chunk(3, varint(2**64 - 100), bit_bytes("0 0 0"))
    times, _, _ = decode(back, np.array([0]), np.array([len(back)]), decode_into=decoders()[decoder])
    assert times.tolist() == [1000, 900, 800]


def test_bytes_behind_the_last_sample_are_nobodys(decoder: str) -> None:
    """Bytes after the last sample are ignored, even within the length of the chunk."""
    filled = GOOD + b"\xff" * 9
    times, values, _ = decode(filled, np.array([0]), np.array([len(filled)]), decode_into=decoders()[decoder])
    assert (times.tolist(), values.tolist()) == ([1000, 1100, 1200], [1.0] * 3)


@pytest.mark.parametrize("unchanged", [0, 1, 30])
def test_window_that_was_never_set_is_the_whole_value(decoder: str, unchanged: int) -> None:
    """As in Prometheus, a value that reuses an unset XOR window has all 64 bits."""
    flips = f"{struct.unpack('>Q', struct.pack('>d', 1.0))[0]:064b}"
    payload = chunk(unchanged + 3, varint(100), bit_bytes("0" + "00" * unchanged + "0 10" + flips))
    _, values, _ = decode(payload, np.array([0]), np.array([len(payload)]), decode_into=decoders()[decoder])
    assert values.tolist() == [1.0] * (unchanged + 2) + [0.0]


@given(st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1))
def test_first_sample_has_any_bits_and_any_time(value_bits: int, unix_ms: int) -> None:
    """With both decoders, NaN payloads and times before 1970 are unchanged."""
    zigzag = (unix_ms << 1) ^ (unix_ms >> 63)
    payload = struct.pack(">H", 1) + varint(zigzag % 2**64) + struct.pack(">Q", value_bits)
    chunks = packed([payload] * 3)
    for decode_into in decoders().values():
        times, values, counts = decode(chunks.data, chunks.offsets, chunks.lengths, decode_into=decode_into)
        assert (times.tolist(), counts.tolist()) == ([unix_ms] * 3, [1] * 3)
        assert values.view(np.uint64).tolist() == [value_bits] * 3


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Chunks:
    """Chunks of promtool: power, jitter, any bits, and short ones."""
    rng = Random(7)
    times = np.cumsum([rng.choice([100, 100, 100, 98, 103, 70_000]) for _ in range(250)]).tolist()
    series = {
        "a": [(place * 100, round(rng.gauss(300, 15) * 8) / 8) for place in range(250)],
        "b": [(ms, rng.uniform(-1, 1) * 10.0 ** rng.randrange(-300, 300)) for ms in times],
        "c": [(0, 1.0)],
        "d": [(0, 1.0), (100, 2.0)],
    }
    return made_by_promtool(tmp_path_factory.mktemp("blocks"), series)


@given(st.data())
def test_either_decoder_says_the_same_of_altered_bytes(real: Chunks, data: st.DataObject) -> None:
    """For bytes altered anywhere, both decoders return the same bits or the same error."""
    altered = bytearray(real.data)
    low, high = int(real.offsets[0]), len(altered) - 1
    for at, byte in data.draw(st.lists(st.tuples(st.integers(low, high), st.integers(0, 255)), max_size=20)):
        altered[at] = byte
    outcomes = list[object]()
    for decode_into in decoders().values():
        try:
            times, values, counts = decode(
                bytes(altered), real.offsets, real.lengths, decode_into=decode_into
            )
        except ChunkError as error:
            outcomes.append(str(error))
        else:
            outcomes.append((times.tolist(), values.view(np.uint64).tolist(), counts.tolist()))
    assert outcomes[0] == outcomes[1]


def altered_payload(rng: Random, payload: bytes) -> bytes:
    """A chunk with a count that it may have, and its head, some bits, or all from some place on made anew."""
    out = bytearray(payload)
    out[:2] = rng.randint(1, int.from_bytes(out[:2], "big")).to_bytes(2, "big")
    match rng.randrange(4):
        case 0:
            for at in rng.sample(range(2, 20), 3):
                out[at] = rng.randrange(256)
        case 1:
            at = rng.randrange(2, len(out) - 12)
            out[at : at + 12] = b"\xff" * 12
        case 2:
            at = rng.randrange(2, len(out))
            out[at:] = rng.randbytes(len(out) - at)
        case _:
            for at in rng.choices(range(2, len(out)), k=5):
                out[at] ^= 1 << rng.randrange(8)
    return bytes(out)


@pytest.mark.parametrize("seed", range(settings().max_examples // 20))
def test_either_decoder_finds_the_same_faults(real: Chunks, seed: int) -> None:
    """For thousands of altered chunks, both decoders return the same errors and bits."""
    rng = Random(seed)
    long = [real.payload(place) for place in range(len(real)) if real.lengths[place] > 40]
    chunks = packed([altered_payload(rng, rng.choice(long)) for _ in range(3000)])
    data = np.frombuffer(chunks.data, np.uint8)
    counts = data[chunks.offsets].astype(np.int64) << 8 | data[chunks.offsets + 1]
    found = []
    for decode_into in decoders().values():
        times, values = np.zeros(counts.sum(), np.int64), np.zeros(counts.sum())
        ends = chunks.offsets + chunks.lengths
        faults = decode_into(data, chunks.offsets, ends, counts, times, values)
        good = np.repeat(faults == ChunkFault.NONE, counts)
        found.append((faults.tolist(), times[good].tolist(), values.view(np.uint64)[good].tolist()))
    assert found[0] == found[1]
    assert set(found[0][0]) == set(ChunkFault)


FUZZ_AT_A_WALL = """
import ctypes, itertools, mmap, sys
from pathlib import Path
import numpy as np
from llem_core.errors import ChunkError
from llem_integrator.remote_read.xor import compiled, decode, side_by_side

rounds, *paths = sys.argv[1:]
page = mmap.PAGESIZE
memory = mmap.mmap(-1, 3 * page)
buffer = np.frombuffer(memory, np.uint8)
wall = ctypes.c_void_p(buffer.ctypes.data + 2 * page)
assert ctypes.CDLL(None).mprotect(wall, ctypes.c_size_t(page), 0) == 0  # PROT_NONE
rng = np.random.default_rng(7)
found = {"decoded": 0, "refused": 0}
numba, numpy = compiled.load(), side_by_side.decode_into
ways = ((numba, 0), (numba, compiled.SLACK_BYTES), (numpy, 0))
for path, (decode_into, behind) in itertools.product(paths, ways):
    payload = Path(path).read_bytes()
    length = len(payload)
    room = buffer[2 * page - length - behind : 2 * page]
    for _ in range(int(rounds)):
        room[:length] = np.frombuffer(payload, np.uint8)
        at = rng.integers(0, length, rng.integers(1, 8))
        room[at] = rng.integers(0, 256, len(at))
        room[length:] = rng.integers(0, 256, behind)
        try:
            decode(room, np.array([0]), np.array([length]), decode_into=decode_into)
            found["decoded"] += 1
        except ChunkError:
            found["refused"] += 1
print(found["decoded"], found["refused"])
"""
"""The buffer ends where memory that must not be touched begins: a read beyond it kills the process."""


def test_nothing_is_read_beyond_the_buffer(tmp_path: Path, real: Chunks) -> None:
    """Altered chunks at the end of memory are decoded or rejected, without a crash."""
    rounds, paths = 3 * settings().max_examples, []
    for which in (0, 2, 3, 5, 6):
        paths.append(tmp_path / str(which))
        paths[-1].write_bytes(real.payload(which))
    command = [sys.executable, "-c", FUZZ_AT_A_WALL, str(rounds), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
    decoded, refused = map(int, done.stdout.split())
    assert decoded + refused == 3 * rounds * len(paths)
    assert refused > 0
