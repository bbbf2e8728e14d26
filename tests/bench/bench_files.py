"""How fast files are integrated: lines a second and the most memory, by form, beside a bare transfer.

python tests/bench/bench_files.py [--gpus 64] [--hours 1] [--folder DIR]

A trace at 10 Hz, written as OpenMetrics (series by series, and in the order of scrapes) and as `promtool tsdb
dump` prints it; plain, by gzip -1 and by zstd. Each row is a process `llem-integrate --source FILE` over the
whole time, from its start to its end, beside `cat`, `gzip -dc` or `zstd -dc` of the same file to /dev/null.
All rows must give the same joules. 64 GPUs and 12 hours are 27.6 M lines, 4 GB in DIR.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import Process
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.servers import program

T0 = 1_795_507_500_000
NAME = "llem_gpu_power_trace_watts"
HZ = 10
TARGET_LINES_A_SECOND = 1.5e6
TARGET_MB = 250
FORMS = ("OpenMetrics", "by scrape", "dump")
PACKERS = {"": ("cat", "coreutils"), ".gz": ("gzip", "gzip"), ".zst": ("zstd", "zstd")}


@dataclass(frozen=True, slots=True)
class Run:
    """One process: its seconds, those of its CPU, the most memory it had, and what it printed."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    output: bytes


def timed(arguments: Sequence[str]) -> Run:
    began_s = time.perf_counter()
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}")
    return Run(time.perf_counter() - began_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, output)


def head(gpu: int, *, dump: bool) -> str:
    labels = {
        "gpu": str(gpu),
        "instance": "node1:9955",
        "job": "llem-history",
        "uuid": f"GPU-4d2b7f1e-{gpu:04}",
    }
    if dump:
        body = ", ".join(f'{name}="{value}"' for name, value in {"__name__": NAME, **labels}.items())
        return f"{{{body}}} "
    return NAME + "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "} "


def columns(samples: int, *, dump: bool) -> tuple[list[str], list[str]]:
    """Values, and times with the end of the line, as they are written."""
    watts = np.round(np.random.default_rng(1).normal(400, 60, samples) * 8) / 8
    stamps = [T0 + 1000 // HZ * i for i in range(samples)]
    times = [f" {ms}\n" if dump else f" {ms // 1000}.{ms % 1000:03d}\n" for ms in stamps]
    return [repr(value) for value in watts.tolist()], times


def by_series(gpus: int, samples: int, *, dump: bool) -> Iterator[str]:
    values, times = columns(samples, dump=dump)
    for gpu in range(gpus):
        first = head(gpu, dump=dump)
        shifted = values[gpu:] + values[:gpu]
        yield "".join([f"{first}{value}{stamp}" for value, stamp in zip(shifted, times, strict=True)])


def by_scrape(gpus: int, samples: int) -> Iterator[str]:
    values, times = columns(samples, dump=False)
    heads = [head(gpu, dump=False) for gpu in range(gpus)]
    for i, stamp in enumerate(times):
        yield "".join([f"{first}{values[(i + gpu) % samples]}{stamp}" for gpu, first in enumerate(heads)])


def write_form(path: Path, gpus: int, samples: int) -> None:
    by_name = {
        "OpenMetrics": by_series(gpus, samples, dump=False),
        "by scrape": by_scrape(gpus, samples),
        "dump": by_series(gpus, samples, dump=True),
    }
    with path.open("w") as file:
        file.writelines(by_name[path.name])
        if path.name != "dump":
            file.write("# EOF\n")


def write(folder: Path, gpus: int, samples: int) -> Iterator[Path]:
    """Each form in turn, in each packing; all are gone when the next one comes."""
    for name in FORMS:
        plain = folder / name
        # In a process of its own: a child's most memory counts what its parent had when it was started.
        writer = Process(target=write_form, args=(plain, gpus, samples))
        writer.start()
        writer.join()
        yield plain
        for suffix, arguments in ((".gz", ["gzip", "-1k"]), (".zst", ["zstd", "-qk"])):
            subprocess.run([*arguments, str(plain)], check=True)
            yield plain.with_name(plain.name + suffix)
            plain.with_name(plain.name + suffix).unlink()
        plain.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--hours", type=float, default=1)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    samples = round(options.hours * 3600 * HZ)
    lines = options.gpus * samples
    window = f"{T0 // 1000},{(T0 + (samples - 1) * 1000 // HZ) / 1000:.3f}"
    print(f"{options.gpus} GPUs, {lines / 1e6:.2f} M lines")
    print(f"{'file':<18}{'MB':>7}{'bare s':>8}{'s':>8}{'CPU s':>8}{'M lines/s':>11}{'peak MB':>9}  joules")
    joules: set[float] = set()
    met = True
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for path in write(Path(folder), options.gpus, samples):
            name, package = PACKERS[path.suffix]
            bare = [program(name, package), *(["-dc"] if path.suffix else []), str(path)]
            transfer = timed(["sh", "-c", 'exec "$@" >/dev/null', "sh", *bare])
            arguments = ["--source", str(path), "--window", window, "--format", "json"]
            run = timed([sys.executable, "-m", "llem_integrator", *arguments])
            joules.add(json.loads(run.output)["windows"][0]["total_j"])
            rate = lines / run.wall_s
            slow = path.stem != "by scrape" and rate < TARGET_LINES_A_SECOND
            met = met and not slow and run.peak_mb <= TARGET_MB
            size_mb = path.stat().st_size / 1e6
            print(
                f"{path.name:<18}{size_mb:>7.0f}{transfer.wall_s:>8.2f}{run.wall_s:>8.2f}{run.cpu_s:>8.2f}"
                f"{rate / 1e6:>11.2f}{run.peak_mb:>9.0f}  {max(joules):.3f}",
                flush=True,
            )
    print(
        f"at least {TARGET_LINES_A_SECOND / 1e6} M lines/s of runs, at most {TARGET_MB} MB:",
        "met" if met else "MISSED",
    )
    return 0 if met and len(joules) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
