"""Which decoder decodes, and how chunks, buffers and threads may be combined."""

import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest

from llem_integrator.remote_read.xor import decode, side_by_side
from llem_integrator.remote_read.xor.choice import DecoderChoice
from tests.llem_integrator.remote_read.chunk_blocks import T0, Chunks, decoders, made_by_promtool

ROOT = Path(__file__).parents[3]
SAMPLES = 3000


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Chunks:
    """Chunks of promtool of two series, one far longer than the other."""
    rng = Random(3)
    series = {
        name: [(place * 100, round(rng.gauss(300, 15) * 8) / 8) for place in range(samples)]
        for name, samples in (("a", SAMPLES - 500), ("b", 500))
    }
    return made_by_promtool(tmp_path_factory.mktemp("blocks"), series)


@pytest.fixture(params=["numpy", "numba"])
def decoder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_any_order_and_any_repetition(real: Chunks, decoder: str) -> None:
    """Chunks may be out of order, overlap and repeat. Each is decoded separately."""
    order = np.random.default_rng(1).integers(0, len(real), 400)
    decode_into = decoders()[decoder]
    times, values, counts = decode(
        real.data, real.offsets[order], real.lengths[order], decode_into=decode_into
    )
    ends = np.cumsum(counts)
    for place, chunk in enumerate(order):
        alone = decode(
            real.payload(chunk), np.array([0]), real.lengths[[chunk]], decode_into=decoders()["numba"]
        )
        stretch = slice(ends[place] - counts[place], ends[place])
        assert times[stretch].tolist() == alone[0].tolist()
        assert values[stretch].tolist() == alone[1].tolist()


def test_more_chunks_than_one_group(real: Chunks, decoder: str) -> None:
    """Tens of thousands of equal chunks give the same samples each."""
    once = decode(real.data, real.offsets, real.lengths, decode_into=decoders()[decoder])
    many = real.repeated(400)
    assert len(many) > 2 * side_by_side.GROUP_ROWS
    times, values, _ = decode(many.data, many.offsets, many.lengths, decode_into=decoders()[decoder])
    assert np.array_equal(times.reshape(400, -1), np.broadcast_to(once[0], (400, SAMPLES)))
    assert np.array_equal(values.reshape(400, -1), np.broadcast_to(once[1], (400, SAMPLES)))


@pytest.mark.parametrize("kind", [bytes, memoryview, lambda data: np.frombuffer(data, np.uint8), bytearray])
def test_any_buffer(real: Chunks, decoder: str, kind: type) -> None:
    """Bytes, memoryviews and arrays give the same samples."""
    times, _, counts = decode(kind(real.data), real.offsets, real.lengths, decode_into=decoders()[decoder])
    assert times[: counts[0]].tolist() == list(range(T0, T0 + 100 * counts[0], 100))


def test_no_chunks_are_no_samples(decoder: str) -> None:
    """No chunks give no samples."""
    none = np.empty(0, np.int64)
    for found in decode(b"", none, none, decode_into=decoders()[decoder]):
        assert len(found) == 0


def test_threads_decode_at_once(real: Chunks, decoder: str) -> None:
    """Eight threads that decode the same buffer get the same samples."""
    expected = decode(real.data, real.offsets, real.lengths)[1].tolist()
    found = list[list[float]]()

    def work() -> None:
        for _ in range(5):
            values = decode(real.data, real.offsets, real.lengths, decode_into=decoders()[decoder])[1]
            found.append(values.tolist())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 40


def test_numpy_decodes_little_and_numba_much() -> None:
    """Numba is loaded only when enough samples are decoded."""
    choice = DecoderChoice(pays_samples=1000)
    assert choice.decoder(600) is side_by_side.decode_into
    assert not choice.wait()
    choice.decoder(600)
    assert choice.wait()
    assert choice.decoder(1) is not side_by_side.decode_into


def test_announced_work_loads_numba_ahead() -> None:
    """Numba is loaded as soon as the announced work is large enough. Otherwise numpy is used."""
    choice = DecoderChoice(pays_samples=1000)
    choice.expect(999)
    assert not choice.wait()
    choice.expect(1000)
    assert choice.wait()


LITTLE_WORK = """
import sys
import numpy as np
from llem_integrator.remote_read import xor
xor.expect(1_000_000)
xor.decode(b"", np.empty(0, np.int64), np.empty(0, np.int64))
print("numba" in sys.modules)
"""

MUCH_WORK = """
import logging, sys
if sys.argv[1] == "without numba":
    sys.modules["numba"] = None  # Python's own way to make an import fail
sys.path[:0] = sys.argv[2:]
from pathlib import Path
import numpy as np
import llem_integrator
from llem_integrator.remote_read.xor import chunks, decode, expect
expect(10**9)
print(chunks._choice.wait(), llem_integrator.__file__)
payload = bytes.fromhex("0001" "00" "3ff8000000000000")
print(decode(payload, np.array([0]), np.array([len(payload)])))
"""


def run(program: str, *args: str, **env: str) -> str:
    command = [sys.executable, "-W", "error", "-c", program, *args]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, **env}
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_little_work_imports_no_numba() -> None:
    """An hour of eight GPUs is decoded without numba, which needs half a second and memory."""
    assert run(LITTLE_WORK) == "False\n"


def test_without_numba_numpy_goes_on() -> None:
    """If numba is not installed, numpy decodes any amount, without a message."""
    told, _, decoded = run(MUCH_WORK, "without numba").partition("\n")
    assert told.startswith("False ")
    assert decoded == "(array([0]), array([1.5]), array([1]))\n"


def in_archive(folder: Path) -> Path:
    """Both packages in a zip file."""
    archive = folder / "site.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for root in (ROOT / "exporter", ROOT / "integrator"):
            for path in sorted(root.rglob("*.py")):
                packed.write(path, path.relative_to(root))
    return archive


def in_folder(folder: Path) -> Path:
    """Both packages in a folder whose __pycache__ cannot be one."""
    with zipfile.ZipFile(in_archive(folder)) as packed:
        packed.extractall(folder / "site")
    (folder / "site" / "llem_integrator" / "remote_read" / "xor" / "__pycache__").touch()
    return folder / "site"


@pytest.mark.full
@pytest.mark.parametrize("installed", [in_archive, in_folder])
def test_numba_without_a_place_for_its_cache(tmp_path: Path, installed: Callable[[Path], Path]) -> None:
    """Without a writable folder, numba compiles for this process, without a message."""
    site = str(installed(tmp_path))
    nowhere = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null", "NUMBA_CACHE_DIR": "/dev/null/numba"}
    told, _, decoded = run(MUCH_WORK, "with numba", site, **nowhere).partition("\n")
    assert told.startswith(f"True {site}")
    assert decoded == "(array([0]), array([1.5]), array([1]))\n"


@pytest.mark.full
def test_numbas_cache_is_used_again(tmp_path: Path) -> None:
    """A second process uses the numba cache of the first and compiles nothing."""
    written = []
    for _ in range(2):
        run(MUCH_WORK, "with numba", NUMBA_CACHE_DIR=str(tmp_path))
        written.append({path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb*")})
    assert len(written[0]) == 2  # an index, and the machine code
    assert written[0] == written[1]
