"""The longest step that is bridged, settled once for each series of a run."""

from dataclasses import dataclass, field

from llem_core import energy
from llem_integrator.series.samples import Times, auto_max_gap_ms


@dataclass(slots=True)
class Gaps:
    """As given, or as the samples say; `interval_ms` is what the exporters publish, by instance."""

    given_ms: float | None = None
    interval_ms: dict[str, float] = field(default_factory=dict)
    _settled_ms: dict[str, float] = field(default_factory=dict)

    @property
    def are_given(self) -> bool:
        """Whether they come from an option or an exporter, and not from the samples."""
        return self.given_ms is not None or bool(self.interval_ms)

    def copy(self) -> "Gaps":
        return Gaps(self.given_ms, dict(self.interval_ms), dict(self._settled_ms))

    def of(self, series: str, unix_ms: Times) -> float | None:
        """In ms, by the first steps of a series that is seen for the first time; None where it has none."""
        if self.given_ms is not None:
            return self.given_ms
        if series not in self._settled_ms and (found := auto_max_gap_ms(unix_ms)) is not None:
            self._settled_ms[series] = found
        return self._settled_ms.get(series)

    def of_trace(self, uuid: str, instance: str, unix_ms: Times) -> float | None:
        """In ms, of a trace: 3 x the interval that its exporter publishes, if it does."""
        if self.given_ms is None and (interval_ms := self.interval_ms.get(instance)):
            return self._settled_ms.setdefault(f"{uuid} trace", energy.GAP_INTERVALS * interval_ms)
        return self.of(f"{uuid} trace", unix_ms)

    def settle_trace(self, uuid: str, max_gap_ms: float) -> None:
        """What was settled elsewhere, for a trace that was seen there first."""
        self._settled_ms.setdefault(f"{uuid} trace", max_gap_ms)
