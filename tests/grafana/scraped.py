"""What Prometheus has scraped, made up scrape by scrape: the input of the rules' unit tests.

    gpu = Gpu("GPU-a").draws(672, minutes=20).missed(minutes=1).draws(300, minutes=20)
    gpu.series()    # {'llem_gpu_power_watts{gpu="0",...}': "672 672 ... stale 300 ..."}

Scrapes are 15 s apart, the first at time 0. All names are those of llem_core.metrics.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from llem_core import metrics
from llem_core.metrics import MetricSpec

INTERVAL_S = 15
ABSENT, GONE = "_", "stale"


def selector(name: str, labels: Mapping[str, str]) -> str:
    """A series as PromQL writes it, labels in order."""
    inside = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"{name}{{{inside}}}"


class Timeline:
    """Series of one target, all as long as there were scrapes."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self.labels = dict(labels)
        self.scrapes = 0
        self._values: dict[str, list[str]] = {}

    def series(self) -> dict[str, str]:
        """promtool's input: each series and its values."""
        return {name: " ".join(values) for name, values in self._values.items()}

    def _scrape(self, page: Iterable[tuple[MetricSpec | str, Mapping[str, str], float]]) -> None:
        """One scrape: what is on the page; whatever was there before and is not now becomes stale."""
        now = {}
        for spec, labels, value in page:
            name = spec if isinstance(spec, str) else spec.name
            now[selector(name, self.labels | dict(labels))] = f"{value:.17g}"
        for name in now.keys() | self._values.keys():
            values = self._values.setdefault(name, [ABSENT] * self.scrapes)
            was_there = bool(values) and values[-1] not in (ABSENT, GONE)
            values.append(now.get(name, GONE if was_there else ABSENT))
        self.scrapes += 1


def scrapes(minutes: float) -> int:
    """How many scrapes that is."""
    return round(minutes * 60 / INTERVAL_S)


class Gpu(Timeline):
    """One GPU on the /metrics page of one exporter."""

    def __init__(
        self,
        uuid: str,
        instance: str = "n1:9955",
        *,
        gpu: str = "0",
        job: str = "llem",
        limit_watts: float = 700,
        zeus_joules: float | None = None,
        pod: str | None = None,
    ) -> None:
        target = {"instance": instance, "job": job} | ({"pod": pod} if pod else {})
        super().__init__(target | {"gpu": gpu, "uuid": uuid})
        self._limit_watts = limit_watts
        self._nvml_joules = self._integrated_s = self._gap_s = self._samples = 0.0
        self.zeus_joules = zeus_joules

    def draws(
        self,
        watts: float,
        minutes: float,
        *,
        utilization: float = 0.87,
        covered: float = 1.0,
        zeus: float = 1.0,
        throttled: Mapping[str, float] | None = None,
        job: str | None = None,
    ) -> Self:
        """A load. `covered` is the share of the time that is integrated, `zeus` the hardware's joules / ours,
        `throttled` the reasons that are on or off, `job` who has the GPU."""
        for _ in range(scrapes(minutes)):
            page = [
                (metrics.GPU_POWER, {}, watts),
                (metrics.GPU_POWER_LIMIT, {}, self._limit_watts),
                (metrics.GPU_SAMPLE_TIMESTAMP, {}, self.scrapes * INTERVAL_S),
                (metrics.GPU_UTILIZATION, {}, utilization),
                *((metrics.GPU_THROTTLE, {"reason": why}, on) for why, on in (throttled or {}).items()),
                *([(metrics.GPU_JOB_INFO, {"job_id": job, "user": "ada"}, 1.0)] if job else []),
            ]
            self._scrape([*page, *self._counters()])
            self._nvml_joules += watts * covered * INTERVAL_S
            self._integrated_s += covered * INTERVAL_S
            self._gap_s += (1 - covered) * INTERVAL_S
            self._samples += covered * INTERVAL_S * 10
            if self.zeus_joules is not None:
                self.zeus_joules += watts * zeus * INTERVAL_S
        return self

    def lost(self, minutes: float) -> Self:
        """The exporter answers and cannot read this GPU: its counters stay, and its gap grows."""
        for _ in range(scrapes(minutes)):
            self._scrape(self._counters())
            self._gap_s += INTERVAL_S
        return self

    def missed(self, minutes: float, *, watts: float = 0) -> Self:
        """Scrapes fail, or the page is without this GPU; it draws power all the same."""
        for _ in range(scrapes(minutes)):
            self._scrape([])
            self._nvml_joules += watts * INTERVAL_S
            self._integrated_s += INTERVAL_S
            if self.zeus_joules is not None:
                self.zeus_joules += watts * INTERVAL_S
        return self

    def absent(self, minutes: float) -> Self:
        """No page has it, and no exporter counts."""
        for _ in range(scrapes(minutes)):
            self._scrape([])
        return self

    def exporter_restarts(self) -> Self:
        """Its own counters begin at 0 again; the hardware's does not."""
        self._nvml_joules = self._integrated_s = self._gap_s = self._samples = 0.0
        return self

    def _counters(self) -> list[tuple[MetricSpec, Mapping[str, str], float]]:
        page: list[tuple[MetricSpec, Mapping[str, str], float]] = [
            (metrics.GPU_INFO, {"name": "H100"}, 1),
            (metrics.GPU_NVML_ENERGY, {}, self._nvml_joules),
            (metrics.GPU_INTEGRATED, {}, self._integrated_s),
            (metrics.GPU_GAP, {}, self._gap_s),
            (metrics.GPU_SAMPLES, {}, self._samples),
        ]
        if self.zeus_joules is not None:
            page.append((metrics.GPU_ZEUS_ENERGY, {}, self.zeus_joules))
        return page


class HistoryOfGpu(Timeline):
    """What the /history page of an exporter says of a GPU beside its trace."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__(gpu.labels | {"job": "llem-history"})

    def scraped(self, minutes: float, limit_watts: float = 700) -> Self:
        for _ in range(scrapes(minutes)):
            self._scrape(
                [(metrics.GPU_INFO, {"name": "H100"}, 1), (metrics.GPU_POWER_LIMIT, {}, limit_watts)]
            )
        return self


@dataclass(frozen=True, slots=True)
class Taken:
    """What the scrapers of /history took: how many there are, and readings a second of all of them.

    If it is `paused`, no samples are added to /history.
    """

    scrapers: float = 1
    confirmed: float = 10
    evicted: float = 0
    paused: bool = False


class Target(Timeline):
    """One target of Prometheus, without its GPUs: `up`, and the exporter's own series on /metrics."""

    def __init__(self, instance: str = "n1:9955", *, job: str = "llem", tick_age_s: float = 0) -> None:
        super().__init__({"instance": instance, "job": job})
        self._tick_age_s = tick_age_s
        self._tick_s = self._confirmed = self._evicted = self._grams = 0.0

    def up(
        self,
        minutes: float,
        *,
        ticks: bool = True,
        taken: Taken | None = None,
        grams_per_hour: float | None = None,
    ) -> Self:
        """The exporter answers; it samples if it `ticks`."""
        for _ in range(scrapes(minutes)):
            now_s = self.scrapes * INTERVAL_S - self._tick_age_s
            self._tick_s = now_s if ticks else self._tick_s
            page: list[tuple[MetricSpec | str, Mapping[str, str], float]] = [
                ("up", {}, 1),
                (metrics.SAMPLER_LAST_TICK, {}, self._tick_s),
            ]
            if taken:
                page += [
                    (metrics.HISTORY_SCRAPERS, {}, taken.scrapers),
                    (metrics.HISTORY_CONFIRMED, {}, self._confirmed),
                    (metrics.HISTORY_EVICTED, {}, self._evicted),
                    (metrics.HISTORY_PAUSED, {}, taken.paused),
                ]
                self._confirmed += taken.confirmed * INTERVAL_S
                self._evicted += taken.evicted * INTERVAL_S
            if grams_per_hour is not None:
                page.append((metrics.CODECARBON_EMISSIONS, {}, self._grams))
                self._grams += grams_per_hour * INTERVAL_S / 3600
            self._scrape(page)
        return self

    def down(self, minutes: float) -> Self:
        """It cannot be scraped."""
        for _ in range(scrapes(minutes)):
            self._scrape([("up", {}, 0)])
        return self

    def removed(self, minutes: float) -> Self:
        """It is no target any more."""
        for _ in range(scrapes(minutes)):
            self._scrape([])
        return self

    def carbon_restarts(self) -> Self:
        """CodeCarbon's process was replaced: its grams begin at 0 again."""
        self._grams = 0.0
        return self
