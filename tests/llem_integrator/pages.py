"""OpenMetrics pages as a Prometheus would hold them, for GPUs of constant power."""

from collections.abc import Iterable, Mapping

from llem_integrator.stores.loaded import LoadedSource
from llem_integrator.text.openmetrics import read

T0 = 1_795_507_500_000
"""Unix ms at which the pages begin."""

Sample = tuple[int, float]


def series(name: str, labels: Mapping[str, str], samples: Iterable[Sample]) -> list[str]:
    """Lines of one series; sample times are ms after T0."""
    body = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return [f"{name}{{{body}}} {value!r} {(T0 + ms) // 1000}.{(T0 + ms) % 1000:03d}" for ms, value in samples]


def scraped(
    gpu: int,
    *,
    watts: float = 100.0,
    zeus: bool = True,
    seconds: Iterable[int] = range(0, 121, 5),
    started_s: int = 0,
    read_late_ms: int = 200,
    uuid: str | None = None,
    **labels: str,
) -> list[str]:
    """One GPU's plain series, scraped at `seconds`, each value read `read_late_ms` before its scrape.

    The exporter started at `started_s`; the hardware counter runs since long before.
    """
    labels = {"gpu": str(gpu), "uuid": uuid or f"GPU-{gpu}", "instance": "n1:9955", **labels}
    scrapes = [s * 1000 for s in seconds]

    def values(per_second: float, offset: float = 0.0) -> list[Sample]:
        return [
            (ms, offset + per_second * max(0.0, (ms - read_late_ms) / 1000 - started_s)) for ms in scrapes
        ]

    def since_boot(ms: int) -> float:
        return 2e9 + watts * (ms - read_late_ms) / 1000

    lines = series("llem_gpu_info", {**labels, "name": "H100"}, [(ms, 1) for ms in scrapes])
    lines += series("llem_gpu_power_watts", labels, [(ms, watts) for ms in scrapes])
    lines += series("llem_gpu_power_limit_watts", labels, [(ms, 700) for ms in scrapes])
    read_at = [(ms, (T0 + ms - read_late_ms) / 1000) for ms in scrapes]
    lines += series("llem_gpu_sample_timestamp_seconds", labels, read_at)
    lines += series("llem_gpu_nvml_energy_joules_total", labels, values(watts))
    lines += series("llem_gpu_integrated_seconds_total", labels, values(1.0))
    if zeus:
        lines += series("llem_gpu_zeus_energy_joules_total", labels, [(ms, since_boot(ms)) for ms in scrapes])
    return lines


def trace(gpu: int, samples: Iterable[Sample], **labels: str) -> list[str]:
    """One GPU's power trace."""
    labels = {"gpu": str(gpu), "uuid": f"GPU-{gpu}", "instance": "n1:9955", **labels}
    return series("llem_gpu_power_trace_watts", labels, samples)


def page(*parts: list[str]) -> str:
    """The whole page, with the sample interval that the exporter publishes."""
    interval = series("llem_sampler_interval_seconds", {"instance": "n1:9955"}, [(0, 0.1), (120_000, 0.1)])
    return "\n".join([*interval, *(line for part in parts for line in part), "# EOF", ""])


def parse(
    text: str, origin: str, extra_labels: Mapping[str, str] | None = None, *, maybe_empty: bool = False
) -> LoadedSource:
    """Return the source of a complete text, with all its metrics."""
    return read([text.encode()], origin, extra_labels, maybe_empty=maybe_empty, names=None)
