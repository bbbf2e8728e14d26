"""What a plot says of the results: windows and GPUs, gathered while the results go by."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from llem_integrator.energy.result import GpuEnergy, WindowResult
from llem_integrator.report import printable
from llem_integrator.windows.window import rfc3339

Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Marked:
    """A window of the plot, in unix ms."""

    start_ms: float
    end_ms: float
    name: str
    total_j: float | None


@dataclass(slots=True)
class Gpu:
    """A GPU of the plot: its joules over all windows (None: not all known), and where it was in one."""

    uuid: str
    newest: GpuEnergy
    joules: float | None = 0.0
    spans: list[Span] = field(default_factory=list)
    backends: set[str] = field(default_factory=set)
    _merged: list[Span] = field(default_factory=list)

    def clipped(self, start_ms: float, end_ms: float) -> Iterator[Span]:
        """The parts of a stretch that lie in windows of this GPU."""
        if not self._merged:
            self._merged = merged(self.spans)
        index = bisect_right(self._merged, start_ms, key=lambda span: span[1])
        for start, end in self._merged[index:]:
            if start >= end_ms:
                return
            yield max(start, start_ms), min(end, end_ms)


@dataclass(slots=True)
class Gathered:
    """All windows, and the GPUs by uuid, as far as the results have come."""

    windows: list[Marked] = field(default_factory=list)
    gpus: dict[str, Gpu] = field(default_factory=dict)

    def add(self, result: WindowResult) -> None:
        start_ms, end_ms = result.start * 1000, result.end * 1000
        self.windows.append(Marked(start_ms, end_ms, printable(result.name or ""), result.total_j))
        for one in result.gpus:
            gpu = self.gpus.setdefault(one.uuid, Gpu(one.uuid, one))
            gpu.newest = one
            gpu.joules = None if one.joules is None or gpu.joules is None else gpu.joules + one.joules
            gpu.spans.append((start_ms, end_ms))
            gpu.backends.add(str(one.backend))

    def title(self) -> str:
        """One line: which windows, and their joules where they are one."""
        start = rfc3339(round(min(window.start_ms for window in self.windows) * 1000))
        end = rfc3339(round(max(window.end_ms for window in self.windows) * 1000))
        if len(self.windows) > 1:
            return f"{len(self.windows)} windows from {start} to {end}"
        window = self.windows[0]
        name = f"{window.name}: " if window.name else ""
        return f"{name}{start} to {end}: {shown_j(window.total_j)} in all"

    def caption(self, gpu: Gpu) -> str:
        """One line on a GPU: which it is, its joules and how they were come by."""
        one = gpu.newest
        node = f" on {', '.join(one.instances)}" if one.instances else ""
        which = printable(f"GPU {one.gpu or gpu.uuid}{f' {one.name}' if one.name else ''}{node}")
        line = f"{which}: {shown_j(gpu.joules)}"
        if len(gpu.spans) > 1:
            return f"{line} in {len(gpu.spans)} windows, {', '.join(sorted(gpu.backends))}"
        if one.joules is None:
            return line
        low, high = (
            f"{value:.1f}" if value is not None else "?" for value in (one.joules_low, one.joules_high)
        )
        return f"{line} ({low} to {high}), {one.backend} {one.method or ''}, coverage {one.coverage:.4f}"


def shown_j(joules: float | None) -> str:
    return "no joules" if joules is None else f"{joules:.1f} J"


def merged(spans: Sequence[Span]) -> list[Span]:
    """Spans that touch or overlap as one, ascending."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined
