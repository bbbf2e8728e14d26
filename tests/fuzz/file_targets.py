"""What is fuzzed of files: what promtool dumps, and what is compressed."""

import gzip
from typing import Final

from tests.fuzz.command import T0, WINDOW, well_behaved
from tests.fuzz.integrator_targets import openmetrics
from tests.fuzz.target import Target, folder


def read_file(data: bytes) -> None:
    """A file of these bytes."""
    path = folder() / "samples"
    path.write_bytes(data)
    well_behaved("--source", str(path), "--window", WINDOW, "--format", "json", "--emissions")


def read_gzipped(data: bytes) -> None:
    """These bytes as they are, and compressed as a whole."""
    read_file(data)
    read_file(gzip.compress(data, 1))


def dump() -> bytes:
    """What promtool prints of a trace, and of what another program measured."""
    series = '{__name__="llem_gpu_power_trace_watts", gpu="0", uuid="GPU-0", x="a \\"b\\" \\u2028\\n"}'
    lines = [f"{series} {100 + tick / 8} {T0 * 1000 + 100 * tick}" for tick in range(40)]
    other = f'{{__name__="h", le="x"}} {{count:3, sum:2.5, (0.5,1]:3}} {T0 * 1000}'
    return "\n".join([*lines, other, f'{{__name__="up"}} NaN {T0 * 1000}', ""]).encode()


def text_format() -> bytes:
    """The text format 0.0.4 with timestamps, and an unquoted UTF-8 name of another program."""
    lines = [
        f'llem_gpu_power_trace_watts{{gpu="0"}} {100 + tick / 8} {T0 * 1000 + 100 * tick}'
        for tick in range(40)
    ]
    return "\n".join(["# TYPE m gauge", *lines, f'a.b{{c.d="e"}} 1 {T0 * 1000}', ""]).encode()


_ZSTD: Final = bytes.fromhex("28b52ffd2000010000")
"""A frame that holds nothing."""

TARGETS: Final = {
    "dump": Target(read_file, (dump(), dump() + openmetrics())),
    "text": Target(read_file, (text_format(),)),
    "gzip": Target(read_gzipped, (gzip.compress(dump(), 1), gzip.compress(openmetrics()) * 2)),
    "zstd": Target(read_file, (_ZSTD, _ZSTD * 2, b"\x50\x2a\x4d\x18\4\0\0\0skip" + _ZSTD)),
}
