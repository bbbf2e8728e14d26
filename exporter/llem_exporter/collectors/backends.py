"""The llem_backend_* and llem_collector_* metrics of zeus and nvml: what can be measured here now."""

from collections.abc import Callable, Iterator

from prometheus_client.registry import Collector

from llem_core import metrics
from llem_core.backend import Backend, Candidate, choose
from llem_exporter.collectors.builder import Family, MetricBuilder
from llem_exporter.collectors.gpu import states_of
from llem_measure.sampling.sampler import Sampler


class BackendCollector(Collector):
    """Which backends read every GPU now, and which of them is chosen.

    `power_source` is the name of the collector of power, "nvml" or "replay". `zeus_failed` is whether Zeus is
    installed and cannot be used. `codecarbon` returns the state of CodeCarbon.
    """

    def __init__(
        self,
        sampler: Sampler,
        power_source: str,
        codecarbon: Callable[[], Candidate],
        *,
        zeus_failed: bool = False,
    ) -> None:
        self._sampler, self._power_source = sampler, power_source
        self._codecarbon, self._zeus_failed = codecarbon, zeus_failed

    def collect(self) -> Iterator[Family]:
        builder = MetricBuilder(
            [
                metrics.BACKEND_AVAILABLE,
                metrics.BACKEND_SELECTED,
                metrics.COLLECTOR_SUCCESS,
                metrics.COLLECTOR_DURATION,
            ]
        )
        states = states_of(self._sampler)
        shown = [snapshot for _, snapshot in states]
        fresh = [snapshot for snapshot in shown if snapshot.fresh]
        reads_power = bool(shown) and all(gpu.fresh and gpu.watts is not None for gpu in shown)
        reads_energy = bool(shown) and all(gpu.fresh and gpu.joules is not None for gpu in shown)
        if shown:
            builder.add(metrics.COLLECTOR_SUCCESS, (self._power_source,), reads_power)
            longest_s = max((gpu.watts_call_s for gpu in fresh), default=None)
            builder.add(metrics.COLLECTOR_DURATION, (self._power_source,), longest_s)
        if self._zeus_failed or any(gpu.has_counter for gpu, _ in states):
            builder.add(metrics.COLLECTOR_SUCCESS, (Backend.ZEUS,), reads_energy)
            longest_s = max((gpu.joules_call_s for gpu in fresh), default=None)
            builder.add(metrics.COLLECTOR_DURATION, (Backend.ZEUS,), longest_s)
        candidates = [
            _candidate(Backend.ZEUS, reads_energy),
            _candidate(Backend.NVML, reads_power),
            self._codecarbon(),
        ]
        chosen = choose(candidates)
        for candidate in candidates:
            builder.add(metrics.BACKEND_AVAILABLE, (candidate.backend,), candidate.usable)
            builder.add(metrics.BACKEND_SELECTED, (candidate.backend,), candidate is chosen)
        return builder.metrics()


def _candidate(backend: Backend, reads_all: bool) -> Candidate:
    return Candidate(backend, float(reads_all), "reads every GPU" if reads_all else "does not read every GPU")
