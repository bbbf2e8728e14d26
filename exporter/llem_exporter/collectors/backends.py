"""The llem_backend_* and llem_collector_* metrics: what can be measured and read now."""

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.registry import Collector

from llem_core import metrics
from llem_core.backend import Backend, Candidate, choose
from llem_exporter.collectors.builder import CollectorState, Family, MetricBuilder
from llem_exporter.collectors.gpu import GpuState, states_of
from llem_measure.sampling.ledger import GpuSnapshot
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
        builder, states = MetricBuilder(), states_of(self._sampler)
        power = _state(self._power_source, states, lambda gpu: (gpu.watts, gpu.reading.watts_call_s))
        energy = _state(Backend.ZEUS, states, lambda gpu: (gpu.joules, gpu.reading.joules_call_s))
        candidates = [_candidate(Backend.ZEUS, energy), _candidate(Backend.NVML, power), self._codecarbon()]
        chosen = choose(candidates)
        for candidate in candidates:
            builder.add(metrics.BACKEND_AVAILABLE, (candidate.backend,), candidate.usable)
            builder.add(metrics.BACKEND_SELECTED, (candidate.backend,), candidate is chosen)
        has_counters = self._zeus_failed or any(gpu.counter.exists for gpu, _ in states)
        reading = [*([power] if states else []), *([energy] if has_counters else [])]
        for state in (*reading, *(state_of() for state_of in self._others)):
            builder.add(metrics.COLLECTOR_SUCCESS, (state.collector,), state.success)
            builder.add(metrics.COLLECTOR_DURATION, (state.collector,), state.duration_s)
        return builder.metrics()


def _state(
    collector: str, states: Sequence[GpuState], reading: Callable[[GpuSnapshot], tuple[float | None, float]]
) -> CollectorState:
    """Return whether every GPU's value is read now, and the duration of the slowest call."""
    readings = [reading(shown) for _, shown in states if shown.fresh]
    reads_all = bool(states) and len(readings) == len(states) and all(v is not None for v, _ in readings)
    return CollectorState(collector, reads_all, max((call_s for _, call_s in readings), default=None))


def _candidate(backend: Backend, state: CollectorState) -> Candidate:
    reason = "reads every GPU" if state.success else "does not read every GPU"
    return Candidate(backend, float(state.success), reason)
