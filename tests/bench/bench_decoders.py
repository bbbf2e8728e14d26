"""How fast XOR chunks are decoded: samples per second by decoder, kind of data, threads, and chunks at once.

python tests/bench/bench_decoders.py [--rounds 7]

The chunks are Prometheus's own (promtool makes them), 70,000 samples at 10 Hz of each kind, repeated:
- "LLM serving" is the trace that ships with the exporter, over and over;
- "square wave" is the fake driver's load; "and noise" adds 2 W of Gaussian noise: both in eighths of a watt;
- "milliwatts" is 300 W with 15 W of noise, in mW: the hardest to compress;
- "joules" is a counter in eighths of a joule; "constant" never changes.
Figures are medians. The last lines show the cost of numba, and the number of samples from which on it pays.
"""

import argparse
import csv
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import llem_exporter
from llem_integrator.remote_read.xor import compiled, decode, side_by_side
from llem_integrator.remote_read.xor.layout import DecodeInto
from tests.fake_nvml.load import default_load
from tests.llem_integrator.remote_read.chunk_blocks import Chunks, made_by_promtool

SAMPLES = 70_000
REPEATED = 60
TARGETS = {"numba": 60e6, "numpy": 5e6}
TRACE = Path(llem_exporter.__file__).parent / "traces" / "llm_serving.csv"

COST = """
import re, time
from pathlib import Path
import numpy
from llem_integrator.remote_read.xor import compiled

def resident_mb():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

before_mb, start_s = resident_mb(), time.perf_counter()
import numba
imported_s = time.perf_counter() - start_s
compiled.load()
print(imported_s, time.perf_counter() - start_s - imported_s, before_mb, resident_mb())
"""


def eighths(values: list[float]) -> list[float]:
    return [round(8 * value) / 8 for value in values]


def kinds() -> dict[str, list[float]]:
    """Values at 10 Hz of each kind of data."""
    rng = random.Random(20261124)
    with TRACE.open() as lines:
        trace = [float(row["watts"]) for row in csv.DictReader(lines) if row["gpu"] == "0"]
    load = default_load(2)
    square = [load.watts(place / 10) for place in range(SAMPLES)]
    joules = np.cumsum(square) / 10 + 2e9
    return {
        "LLM serving": [trace[place % len(trace)] for place in range(SAMPLES)],
        "square wave": eighths(square),
        "and noise": eighths([watts + rng.gauss(0, 2) for watts in square]),
        "milliwatts": [round(rng.gauss(300, 15), 3) for _ in range(SAMPLES)],
        "joules": eighths(joules.tolist()),
        "constant": [72.0] * SAMPLES,
    }


def chunks_of(values: list[float]) -> Chunks:
    with tempfile.TemporaryDirectory() as directory:
        samples = [(place * 100, value) for place, value in enumerate(values)]
        return made_by_promtool(Path(directory), {"power": samples})


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Of one call, the median of some; a first one is not counted."""
    work()
    taken = []
    for _ in range(rounds):
        start_s = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start_s)
    return median(taken)


def rate(chunks: Chunks, decoder: DecodeInto, rounds: int, *, threads: int = 1) -> float:
    """Samples per second."""
    samples = len(decode(chunks.data, chunks.offsets, chunks.lengths, decode_into=decoder)[0])

    def one() -> None:
        decode(chunks.data, chunks.offsets, chunks.lengths, decode_into=decoder)

    def at_once() -> None:
        if threads == 1:
            one()
            return
        workers = [threading.Thread(target=one) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return threads * samples / seconds(at_once, rounds)


def bench_kinds(decoders: dict[str, DecodeInto], rounds: int) -> tuple[bool, Chunks]:
    """Print a row for each kind; returns whether all targets were met, and the last kind's chunks."""
    all_met = True
    print(f"{'M samples/s':<22}{'B/sample':>9}{'numba':>8}{'2 threads':>11}{'numpy':>8}{'2 threads':>11}")
    for kind, values in kinds().items():
        once = chunks_of(values)
        chunks = once.repeated(REPEATED)
        row = [rate(chunks, one, rounds, threads=threads) for one in decoders.values() for threads in (1, 2)]
        numbers = "".join(f"{one / 1e6:>{width}.0f}" for one, width in zip(row, (8, 11, 8, 11), strict=True))
        met = all(row[2 * place] >= TARGETS[name] for place, name in enumerate(decoders))
        all_met &= met
        per_sample = once.lengths.sum() / len(values)
        print(f"{kind:<22}{per_sample:>9.2f}{numbers} {'met' if met else 'MISSED'}")
    return all_met, chunks_of(kinds()["LLM serving"])


def bench_pieces(decoders: dict[str, DecodeInto], chunks: Chunks, rounds: int) -> None:
    """Print a row for each number of chunks that are decoded in one call."""
    print(f"\n{'chunks at once':<22}{'numba':>17}{'numpy':>8}")
    for number in (30, 300, 3_000, 30_000):
        many = chunks.repeated(-(-number // len(chunks)))
        some = Chunks(many.data, many.offsets[:number], many.lengths[:number])
        row = [rate(some, one, rounds) for one in decoders.values()]
        numbers = "".join(f"{one / 1e6:>{width}.1f}" for one, width in zip(row, (17, 8), strict=True))
        print(f"{number:<22}{numbers}")


def bench_numba(numpy_rate: float, numba_rate: float) -> None:
    """Print what numba takes in a process of its own, the first time and later."""
    print()
    with tempfile.TemporaryDirectory() as cache:
        for name in ("first time", "from its cache"):
            command = [sys.executable, "-c", COST]
            env = {**os.environ, "NUMBA_CACHE_DIR": cache}
            said = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout
            imported_s, loaded_s, before_mb, after_mb = map(float, said.split())
            pays = (imported_s + loaded_s) / (1 / numpy_rate - 1 / numba_rate)
            print(
                f"numba, {name:<15} import {imported_s:.2f} s, load {loaded_s:.2f} s, "
                f"{before_mb:.0f} -> {after_mb:.0f} MB; pays from {pays / 1e6:.0f} M samples on"
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    decoders: dict[str, DecodeInto] = {"numba": compiled.load(), "numpy": side_by_side.decode_into}
    all_met, chunks = bench_kinds(decoders, rounds)
    bench_pieces(decoders, chunks, rounds)
    many = chunks.repeated(REPEATED)
    bench_numba(*(rate(many, decoders[name], rounds) for name in ("numpy", "numba")))
    return 0 if all_met else 1


if __name__ == "__main__":
    sys.exit(main())
