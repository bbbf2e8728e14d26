"""Made data in a real Prometheus: days of a cluster's series as blocks, kept for the next run.

Blocks are written two hours at a time, as Prometheus writes its own. Power is a square wave with noise in
multiples of 1/8 W, the same for the same GPU and time, whatever else is made.
"""

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tests.servers import PrometheusRelease, ServerError, installed_prometheus

Array = NDArray[Any]

T0_MS: Final = 1_795_507_200_000 // 7_200_000 * 7_200_000
"""Where blocks begin: a whole two hours."""

CACHE: Final = Path.home() / ".cache" / "llem" / "bench"
_BLOCK_MS: Final = 7_200_000
_POWER: Final = "llem_gpu_power_trace_watts"
_SCRAPED: Final = (
    "llem_gpu_info",
    "llem_gpu_power_watts",
    "llem_gpu_power_limit_watts",
    "llem_gpu_power_peak_watts",
    "llem_gpu_sample_timestamp_seconds",
    "llem_gpu_nvml_energy_joules_total",
    "llem_gpu_zeus_energy_joules_total",
    "llem_gpu_integrated_seconds_total",
)


@dataclass(frozen=True, slots=True)
class Cluster:
    """So many GPUs, `per_node` a node, for so many hours: traces at 10 Hz, scraped series every 15 s."""

    gpus: int
    hours: int
    traced: bool = True
    scraped: bool = True
    per_node: int = 8
    scrape_ms: int = 15_000

    @property
    def end_ms(self) -> int:
        return T0_MS + self.hours * 3_600_000

    def blocks(self, cache: Path = CACHE, release: PrometheusRelease | None = None) -> Path:
        """The folder that a Prometheus can be started on, made where it is not yet there."""
        unusual = {name: value for name, value in asdict(self).items() if value != _USUAL.get(name)}
        key = hashlib.sha256(json.dumps([unusual, 2]).encode()).hexdigest()[:16]
        folder = cache / f"{self.gpus}x{self.hours}-{key}"
        if not folder.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as made:
                self._make(Path(made), release or installed_prometheus())
                shutil.move(Path(made, "blocks"), folder)
        return folder

    def _make(self, folder: Path, release: PrometheusRelease) -> None:
        for first_ms in range(T0_MS, self.end_ms, _BLOCK_MS):
            text = folder / "samples.om"
            with text.open("w") as out:
                for part in self.text(first_ms, min(first_ms + _BLOCK_MS, self.end_ms)):
                    out.write(part)
                out.write("# EOF\n")
            command = [release.promtool, "tsdb", "create-blocks-from", "openmetrics", str(text)]
            done = subprocess.run(
                [*command, str(folder / "blocks")], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise ServerError(f"promtool made no blocks: {done.stdout}{done.stderr}")

    def text(self, first_ms: int, last_ms: int) -> Iterator[str]:
        """OpenMetrics of a stretch, without its last line."""
        if self.scraped:
            scrapes = np.arange(first_ms, last_ms, self.scrape_ms)
            for name in _SCRAPED:
                yield f"# TYPE {name} gauge\n"
                for gpu in range(self.gpus):
                    yield _lines(name, _labels(gpu, self.per_node), scrapes, _scraped(name, gpu, scrapes))
            yield "# TYPE llem_sampler_interval_seconds gauge\n"
            for node in range(-(-self.gpus // self.per_node)):
                interval = np.full(len(scrapes), 0.1)
                yield _lines("llem_sampler_interval_seconds", f'instance="n{node}:9955"', scrapes, interval)
        if self.traced:
            yield f"# TYPE {_POWER} gauge\n"
            for gpu in range(self.gpus):
                for start_ms in range(first_ms, last_ms, 600_000):
                    ticks = np.arange(start_ms, min(start_ms + 600_000, last_ms), 100)
                    yield _lines(_POWER, _labels(gpu, self.per_node), ticks, watts(gpu, ticks))


def watts(gpu: int, unix_ms: Array) -> Array:
    """Power at whole ticks: a square wave of 120 and 520 W with up to 8 W of noise."""
    tick = unix_ms // 100
    high = (tick * 100 + gpu * 531) % 7312 < 2925
    noise = (tick * 2_654_435_761 + gpu * 97) >> 7 & 63
    return np.where(high, 520.0, 120.0) + noise / 8


def _scraped(name: str, gpu: int, unix_ms: Array) -> Array:
    seconds = (unix_ms - T0_MS) / 1000
    steady = 280.0 + gpu
    match name.removeprefix("llem_gpu_"):
        case "info":
            return np.ones(len(unix_ms))
        case "power_limit_watts":
            return np.full(len(unix_ms), 700.0)
        case "sample_timestamp_seconds":
            return unix_ms / 1000
        case "integrated_seconds_total":
            return seconds
        case "nvml_energy_joules_total" | "zeus_energy_joules_total":
            return np.rint(steady * seconds * 8) / 8
    return watts(gpu, unix_ms)


_USUAL: Final = {"per_node": 8, "scrape_ms": 15_000}
"""They are not in the name of a cluster that has them."""


def _labels(gpu: int, per_node: int) -> str:
    return f'gpu="{gpu % per_node}",uuid="GPU-{gpu:04d}",instance="n{gpu // per_node}:9955"'


def _lines(name: str, labels: str, unix_ms: Array, values: Array) -> str:
    series = f"{name}{{{labels}}} "
    rows = zip(values.tolist(), (unix_ms // 1000).tolist(), (unix_ms % 1000).tolist(), strict=True)
    return "".join([f"{series}{value:.13g} {s}.{ms:03d}\n" for value, s, ms in rows])
