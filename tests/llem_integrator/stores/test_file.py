"""Files and standard input: any size in little memory, compressed or not, whole or refused."""

import gzip
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from llem_core.errors import SourceError
from llem_integrator.series.samples import Series
from llem_integrator.stores import open_source, whole
from tests.llem_integrator.clusters import load
from tests.llem_integrator.conftest import Done
from tests.llem_integrator.text.dumps import packed, zstandard
from tests.llem_integrator.traces import POWER, T0, fetch, trace_text
from tests.servers import wait_until

TEXT = trace_text(3000).encode()
MEBIBYTE = 1 << 20
WINDOW = ("--window", f"{T0 // 1000},+60s", "--format", "json")
ENDED_S = 120.0


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "llem_integrator", *args]


def test_a_format_is_told_by_its_content(tmp_path: Path) -> None:
    """The format does not depend on the file name or on the number of compressed members."""
    (tmp_path / "plain").write_bytes(TEXT)
    expected = fetch(open_source(str(tmp_path / "plain")), T0, T0 + 10**6)
    assert [len(one) for one in expected] == [3000, 3000]
    for name, content in packed(TEXT).items():
        path = tmp_path / f"{name}.txt"
        path.write_bytes(content)
        for one, other in zip(fetch(open_source(str(path)), T0, T0 + 10**6), expected, strict=True):
            assert one.unix_ms.tolist() == other.unix_ms.tolist(), name
            assert one.values.tolist() == other.values.tolist(), name


@pytest.mark.parametrize("name", ["plain", "gzip", "zstd"])
def test_standard_input_is_read_as_a_file_is(
    tmp_path: Path, name: str, llem_integrate: Callable[..., Done]
) -> None:
    """A pipe that delivers its first bytes one by one gives the same result as a file."""
    content = {"plain": TEXT, **packed(TEXT)}[name]
    (tmp_path / "file").write_bytes(content)
    expected = llem_integrate("--source", str(tmp_path / "file"), *WINDOW)
    with subprocess.Popen(
        command("--source", "-", *WINDOW), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin is not None
        for begin, end in ((0, 1), (1, 2), (2, 3), (3, len(content))):
            process.stdin.write(content[begin:end])
        output, _ = process.communicate(timeout=ENDED_S)
    assert (process.returncode, expected.code) == (0, 0)
    for shown, source in (("standard input", str(tmp_path / "file")), ('"-"', f'"{tmp_path / "file"}"')):
        output = output.replace(shown.encode(), source.encode())
    assert output.decode() == expected.stdout


def test_a_byte_order_mark_on_standard_input(tmp_path: Path, llem_integrate: Callable[..., Done]) -> None:
    """A mark that Windows adds before the text is ignored, also inside compressed data."""
    (tmp_path / "file").write_bytes(TEXT)
    expected = llem_integrate("--source", str(tmp_path / "file"), *WINDOW)
    marked = b"\xef\xbb\xbf" + TEXT
    for content in (marked, gzip.compress(marked)):
        done = subprocess.run(
            command("--source", "-", *WINDOW), input=content, stdout=subprocess.PIPE, check=True
        )
        found, right = (json.loads(text)["windows"][0]["total_j"] for text in (done.stdout, expected.stdout))
        assert found == right


def test_compressed_files_that_are_cut_short(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """A truncation is an error, also between two members, where the text itself is incomplete."""
    for name in ["gzip", "gzip members", "zstd", "zstd frames"]:
        with subtests.test(name=name):
            content = packed(TEXT)[name]
            path = tmp_path / "cut"
            for size in {
                1,
                2,
                3,
                4,
                5,
                10,
                11,
                17,
                18,
                len(content) // 3,
                len(content) // 2,
                len(content) - 1,
            }:
                path.write_bytes(content[:size])
                with pytest.raises(SourceError, match=r"truncated|EOF|line 1|not UTF-8"):
                    open_source(str(path))


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_compressed_files_that_are_damaged(tmp_path: Path, name: str) -> None:
    """A changed byte, or extra data at the end, is an error and never gives other samples."""
    content = packed(TEXT)[name]
    path = tmp_path / "damaged"
    expected = [one.values.tolist() for one in fetch_bytes(path, content)]
    refused = 0
    for place in range(4, len(content), len(content) // 150):
        changed = bytearray(content)
        changed[place] ^= 0x10
        try:
            found = [one.values.tolist() for one in fetch_bytes(path, bytes(changed))]
        except SourceError:
            refused += 1
        else:
            assert found == expected, place  # not all bits of a header matter
    assert refused > 100
    with pytest.raises(SourceError, match="damaged"):
        fetch_bytes(path, content + b"something else")


def fetch_bytes(path: Path, content: bytes) -> list[Series]:
    path.write_bytes(content)
    return fetch(open_source(str(path)), T0, T0 + 10**6)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a folder, and invalid text are errors of one line."""
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "later").write_bytes(b'm 1 2\nllem_gpu_power_watts{x="\xff"} 1 2\n# EOF\n')
    for name, message in (
        ("none", "cannot read"),
        (".", "cannot read"),
        ("bytes", "not UTF-8"),
        ("later", "line 2: not UTF-8"),
    ):
        with pytest.raises(SourceError, match=message):
            open_source(str(tmp_path / name))


def test_a_file_without_end_is_refused_early(tmp_path: Path) -> None:
    """Endless zeros, compressed or not, are rejected after 1 MiB."""
    bombs = {
        "zeros": bytes(8 * MEBIBYTE),
        "gzip": gzip.compress(bytes(192 * MEBIBYTE), 1),
        "zstd": zstandard(bytes(192 * MEBIBYTE)),
    }
    for name, content in bombs.items():
        (tmp_path / name).write_bytes(content)
        status, err, peak_bytes = ended("--source", str(tmp_path / name), *WINDOW)
        assert (status, err.count("\n")) == (1, 0)
        assert "a line is longer than 1 MiB" in err
        assert peak_bytes < 120 * MEBIBYTE, name


def long_text(lines: int) -> Iterator[bytes]:
    """A 10 Hz trace of one GPU, in pieces, without its end."""
    for first in range(0, lines, 10_000):
        yield "".join(
            f'{POWER}{{gpu="0",uuid="GPU-0"}} {i % 97} {(T0 + 100 * i) / 1000:.3f}\n'
            for i in range(first, first + 10_000)
        ).encode()


MEASURED = """
import re, runpy, sys
from pathlib import Path
try:
    runpy.run_module("llem_integrator", run_name="__main__", alter_sys=True)
finally:
    print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1], file=sys.stderr)
"""
"""The command, and the most memory it had, in KiB. What the kernel says of a child counts its parent's."""


def ended(*args: str, largest_file: int = resource.RLIM_INFINITY) -> tuple[int, str, int]:
    """A command's status, its stderr, and the most memory it had, in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *args],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=ENDED_S,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file)),
    )
    err, _, peak_kib = done.stderr.removesuffix("\n").rpartition("\n")
    return done.returncode, err, int(peak_kib) * 1024


@pytest.mark.full
def test_a_million_lines_in_little_memory(tmp_path: Path) -> None:
    """A million lines are 80 MB of text. Their samples are stored on disk."""
    path = tmp_path / "long.gz"
    with gzip.open(path, "wb", 1) as file:
        file.writelines(long_text(1_200_000))
        file.write(b"# EOF\n")
    window = ("--window", f"{T0 // 1000},+120000s", "--format", "json")
    status, err, peak_bytes = ended("--source", str(path), *window)
    assert (status, err) == (0, "")
    assert peak_bytes < 130 * MEBIBYTE


def test_no_place_for_samples_is_one_line(tmp_path: Path) -> None:
    """A full disk is an error of one line with a hint. The test uses a file size limit."""
    path = tmp_path / "long"
    with path.open("wb") as file:
        file.writelines(long_text(1_200_000))
        file.write(b"# EOF\n")
    status, err, _ = ended("--source", str(path), *WINDOW, largest_file=MEBIBYTE)
    assert (status, err.count("\n")) == (1, 0)
    assert "the samples do not fit into a temporary file" in err
    assert "TMPDIR" in err


@pytest.mark.parametrize("sign", [pytest.param(signal.SIGTERM, marks=pytest.mark.full), signal.SIGKILL])
def test_the_temporary_file_is_gone_with_the_process(tmp_path: Path, sign: signal.Signals) -> None:
    """The temporary file is unlinked while the process runs, so it never remains."""
    process = subprocess.Popen(
        command("--source", "-", *WINDOW), stdin=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert process.stdin is not None
    try:
        process.stdin.writelines(long_text(1_200_000))
        process.stdin.flush()
        wait_until(lambda: any(deleted(process.pid, tmp_path)), "a temporary file in use")
        assert list(tmp_path.iterdir()) == []
    finally:
        process.send_signal(sign)
        process.wait(ENDED_S)
        process.stdin.close()
    assert list(tmp_path.iterdir()) == []


def deleted(pid: int, folder: Path) -> Iterable[bool]:
    """For each file that a process has open, whether it was in `folder`, and has no name any more."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        target = str(link.readlink())
        yield target.startswith(str(folder)) and target.endswith("(deleted)")


def test_an_interrupt_ends_the_wait_for_standard_input() -> None:
    """Ctrl-C before any input gives exit status 130 soon, without thread errors."""
    process = subprocess.Popen(
        command("--source", "-", *WINDOW), stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: len(list(Path(f"/proc/{process.pid}/task").iterdir())) > 1, "a thread that reads")
    process.send_signal(signal.SIGINT)
    assert process.stdin is not None
    assert process.stderr is not None
    try:
        assert process.wait(ENDED_S) == 130
        assert process.stderr.read().strip() in ("", "interrupted")
    finally:
        process.stdin.close()
        process.stderr.close()


def test_pieces_follow_each_other_and_hold_every_sample_once() -> None:
    """Samples may be in any order over several series. A piece has about a million samples at most."""
    random = np.random.default_rng(7)
    every = [
        Series(
            {"gpu": str(gpu)}, T0 + 100 * random.permutation(length).astype(np.int64), random.random(length)
        )
        for gpu, length in enumerate((900_000, 700_000, 3, 1_000_001))
    ]
    source = load("here", {POWER: every})
    pieces = list(source.pieces(POWER, (), T0 - 5, T0 + 10**9))
    assert (pieces[0].start_ms, pieces[-1].end_ms) == (T0 - 5, T0 + 10**9)
    assert all(one.end_ms + 1 == other.start_ms for one, other in pairwise(pieces))
    assert max(sum(map(len, piece.series)) for piece in pieces) < 1_200_000
    assert len(pieces) > 2
    found = {one.labels["gpu"]: one for one in whole(pieces)}
    for one in every:
        order = np.argsort(one.unix_ms)
        assert np.array_equal(found[one.labels["gpu"]].unix_ms, one.unix_ms[order])
        assert np.array_equal(found[one.labels["gpu"]].values, one.values[order])
