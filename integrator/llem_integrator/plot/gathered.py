"""The windows and GPUs of a plot, gathered while the results are written."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from llem_integrator.report import printable
from llem_integrator.results.fields import GpuEnergy, WindowResult
from llem_integrator.windows.window import rfc3339

Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class PlottedWindow:
    """A window of the plot, in unix ms."""

    start_ms: float
    end_ms: float
    name: str
    total_j: float | None


@dataclass(slots=True)
class PlottedGpu:
    """A GPU of the plot, and the windows in which it was.

    `joules` is the sum over all windows, or None if the joules of a window are unknown.
    """

    uuid: str
    newest: GpuEnergy
    joules: float | None = 0.0
    spans: list[Span] = field(default_factory=list)
    backends: set[str] = field(default_factory=set)
    _merged: list[Span] = field(default_factory=list)

    def clipped(self, start_ms: float, end_ms: float) -> Iterator[Span]:
        """Yield the parts of a span that are in windows of this GPU."""
        if not self._merged:
            self._merged = merged(self.spans)
        index = bisect_right(self._merged, start_ms, key=lambda span: span[1])
        for start, end in self._merged[index:]:
            if start >= end_ms:
                return
            yield max(start, start_ms), min(end, end_ms)


@dataclass(slots=True)
class Gathered:
    """All windows so far, and their GPUs by UUID."""

    windows: list[PlottedWindow] = field(default_factory=list)
    gpus: dict[str, PlottedGpu] = field(default_factory=dict)

    def add(self, result: WindowResult) -> None:
        start_ms, end_ms = result.start * 1000, result.end * 1000
        self.windows.append(PlottedWindow(start_ms, end_ms, printable(result.name or ""), result.total_j))
        for energy in result.gpus:
            gpu = self.gpus.setdefault(energy.uuid, PlottedGpu(energy.uuid, energy))
            gpu.newest = energy
            gpu.joules = None if energy.joules is None or gpu.joules is None else gpu.joules + energy.joules
            gpu.spans.append((start_ms, end_ms))
            gpu.backends.add(str(energy.backend))

    def title(self) -> str:
        """Return a line with the times of the windows, and with the joules if there is only one window."""
        start = rfc3339(round(min(window.start_ms for window in self.windows) * 1000))
        end = rfc3339(round(max(window.end_ms for window in self.windows) * 1000))
        if len(self.windows) > 1:
            return f"{len(self.windows)} windows from {start} to {end}"
        window = self.windows[0]
        name = f"{window.name}: " if window.name else ""
        return f"{name}{start} to {end}: {shown_j(window.total_j)} in all"

    def caption(self, gpu: PlottedGpu) -> str:
        """Return a line with the name of a GPU, its joules, and how they were measured."""
        energy = gpu.newest
        node = f" on {', '.join(energy.instances)}" if energy.instances else ""
        name = printable(f"GPU {energy.gpu or gpu.uuid}{f' {energy.name}' if energy.name else ''}{node}")
        line = f"{name}: {shown_j(gpu.joules)}"
        if len(gpu.spans) > 1:
            return f"{line} in {len(gpu.spans)} windows, {', '.join(sorted(gpu.backends))}"
        if energy.joules is None:
            return line
        low, high = ("?" if j is None else f"{j:.1f}" for j in (energy.joules_low, energy.joules_high))
        method = f"{energy.backend} {energy.method or ''}"
        return f"{line} ({low} to {high}), {method}, coverage {energy.coverage:.4f}"


def shown_j(joules: float | None) -> str:
    return "no joules" if joules is None else f"{joules:.1f} J"


def merged(spans: Sequence[Span]) -> list[Span]:
    """Return the spans in order of time. Spans that touch or overlap become one."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined
