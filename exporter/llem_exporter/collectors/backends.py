"""The llem_backend_* and llem_collector_* metrics: what can be measured and read now."""

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.registry import Collector

from llem_core import metrics
from llem_core.backend import Backend, Candidate, choose
from llem_exporter.collectors.builder import CollectorState, Family, MetricBuilder
from llem_exporter.collectors.gpu import GpuState, states_of
from llem_measure.sampling.sampler import Sampler


class BackendCollector(Collector):
    """Which backends read every GPU now, which of them is chosen, and the state of each collector.

    `power_source` is the name of the collector of power, "nvml" or "replay". `zeus_failed` is whether Zeus is
    installed and cannot be used. `codecarbon` returns whether CodeCarbon works. `others` return the states of
    other collectors.
    """

    def __init__(
        self,
        sampler: Sampler,
        power_source: str,
        codecarbon: Callable[[], Candidate],
        others: Sequence[Callable[[], CollectorState]] = (),
        *,
        zeus_failed: bool = False,
    ) -> None:
        self._sampler, self._power_source, self._zeus_failed = sampler, power_source, zeus_failed
        self._codecarbon, self._others = codecarbon, others

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
        power, energy = self._power_state(states), self._energy_state(states)
        candidates = [_candidate(Backend.ZEUS, energy), _candidate(Backend.NVML, power), self._codecarbon()]
        chosen = choose(candidates)
        for candidate in candidates:
            builder.add(metrics.BACKEND_AVAILABLE, (candidate.backend,), candidate.usable)
            builder.add(metrics.BACKEND_SELECTED, (candidate.backend,), candidate is chosen)
        has_counters = self._zeus_failed or any(gpu.has_counter for gpu, _ in states)
        reading = [*([power] if states else []), *([energy] if has_counters else [])]
        for state in (*reading, *(state_of() for state_of in self._others)):
            builder.add(metrics.COLLECTOR_SUCCESS, (state.collector,), state.success)
            builder.add(metrics.COLLECTOR_DURATION, (state.collector,), state.duration_s)
        return builder.metrics()

    def _power_state(self, states: Sequence[GpuState]) -> CollectorState:
        reads_all = bool(states) and all(shown.fresh and shown.watts is not None for _, shown in states)
        calls_s = [shown.watts_call_s for _, shown in states if shown.fresh]
        return CollectorState(self._power_source, reads_all, max(calls_s, default=None))

    def _energy_state(self, states: Sequence[GpuState]) -> CollectorState:
        reads_all = bool(states) and all(shown.fresh and shown.joules is not None for _, shown in states)
        calls_s = [shown.joules_call_s for _, shown in states if shown.fresh]
        return CollectorState(Backend.ZEUS, reads_all, max(calls_s, default=None))


def _candidate(backend: Backend, state: CollectorState) -> Candidate:
    reason = "reads every GPU" if state.success else "does not read every GPU"
    return Candidate(backend, float(state.success), reason)
