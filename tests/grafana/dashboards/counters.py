"""Scrapes of GPUs at constant power as OpenMetrics text, by one job or by several."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

SCRAPE_SECONDS = 15
START_UNIX_S = 1_795_500_007
COUNTERS = {
    "llem_gpu_zeus_energy_joules": "joules",
    "llem_gpu_nvml_energy_joules": "joules",
    "llem_gpu_integrated_seconds": "seconds",
    "llem_gpu_gap_seconds": "seconds",
}
GAUGES = (
    "llem_gpu_info",
    "llem_gpu_power_watts",
    "llem_gpu_power_peak_watts",
    "llem_gpu_sample_timestamp_seconds",
    "llem_sampler_interval_seconds",
)


@dataclass
class Page:
    """Samples by metric, written in OpenMetrics' order: all of a metric together."""

    lines: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, labels: str, unix_s: float, value: float) -> None:
        self.lines.setdefault(name, []).append(f"{name}{{{labels}}} {value!r} {unix_s:.3f}")

    def add_target(self, target: str, uuid: str, unix_s: float, values: Mapping[str, float]) -> None:
        """One scrape of a target's only GPU: its values, and what is constant beside them."""
        gpu = f'{target},gpu="0",uuid="{uuid}"'
        for name, value in values.items():
            self.add(name, gpu, unix_s, value)
        self.add("llem_gpu_info", f'{gpu},name="H100"', unix_s, 1.0)
        self.add("llem_sampler_interval_seconds", target, unix_s, 0.1)

    def text(self) -> str:
        return "\n".join([*self._families(), "# EOF", ""])

    def _families(self) -> Iterator[str]:
        for name in COUNTERS:
            yield f"# TYPE {name} counter"
            yield from sorted(self.lines.get(f"{name}_total", []), key=_series)
        for name in GAUGES:
            yield f"# TYPE {name} gauge"
            yield from sorted(self.lines.get(name, []), key=_series)


def _series(line: str) -> str:
    return line.partition("}")[0]


def scrape(
    page: Page,
    uuid: str,
    watts: float,
    stretch: tuple[float, float],
    *,
    instance: str = "node1:9955",
    jobs: tuple[str, ...] = ("llem",),
    pod: str | None = None,
    started_s: float | None = None,
    peaks: tuple[tuple[float, float], ...] = (),
    lost_s: float | None = None,
) -> None:
    """Scrapes of a GPU at constant power from stretch[0] to stretch[1] [s from the start].

    The exporter started at `started_s`, from when nvml counts; the hardware has counted for an hour before.
    `peaks` are samples of a higher power, by when. From `lost_s` on the GPU cannot be read: its gauges
    are gone, and of its counters only the gap's goes on.
    """
    begin, end = stretch
    started_s = begin if started_s is None else started_s
    for at in range(int(begin), int(end), SCRAPE_SECONDS):
        unix_s = START_UNIX_S + at
        read_s = at if lost_s is None else min(at, lost_s)
        values = {
            "llem_gpu_zeus_energy_joules_total": watts * (3600 + read_s),
            "llem_gpu_nvml_energy_joules_total": watts * (read_s - started_s),
            "llem_gpu_integrated_seconds_total": read_s - started_s,
            "llem_gpu_gap_seconds_total": float(at - read_s),
        }
        gauges = {
            "llem_gpu_power_watts": watts,
            "llem_gpu_power_peak_watts": max(
                [watts, *(high for when, high in peaks if at - 60 <= when <= at)]
            ),
            "llem_gpu_sample_timestamp_seconds": float(unix_s),
        }
        for job in jobs:
            target = f'job="{job}",instance="{instance}"' + (f',pod="{pod}"' if pod else "")
            page.add_target(target, uuid, unix_s, values | (gauges if read_s == at else {}))
