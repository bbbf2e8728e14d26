"""What promtool prints of real blocks, and files of it as users make them."""

import gzip
import subprocess
import sys
from pathlib import Path

from tests.servers import PrometheusRelease

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def dumped(release: PrometheusRelease, data: Path, command: str = "dump") -> bytes:
    """The output of `promtool tsdb dump` or `dump-openmetrics`, of a Prometheus's data."""
    (data / "wal").mkdir(exist_ok=True)
    done = subprocess.run([release.promtool, "tsdb", command, str(data)], capture_output=True, check=True)
    assert done.stdout, done.stderr
    return done.stdout


def packed(text: bytes) -> dict[str, bytes]:
    """The text compressed in each way that is read: as a whole, and in parts that follow each other."""
    half = len(text) // 2
    parts = text[:half], text[half:]
    return {
        "gzip": gzip.compress(text, 1),
        "gzip members": b"".join(map(gzip.compress, parts)),
        "zstd": zstandard(text),
        "zstd frames": b"".join(map(zstandard, parts)),
        "pzstd": b"\x50\x2a\x4d\x18\x04\0\0\0skip" + zstandard(text),
    }


def zstandard(data: bytes) -> bytes:
    """One frame with a checksum, as the zstd program writes it."""
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})
