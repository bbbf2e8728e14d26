"""One GPU's rows of results, from columns: its energy in each window, and what is to be said of it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any, Final

import numpy as np

from llem_core.backend import PRIORITY, Backend
from llem_core.measurement import MeasurementWarning, WarningCode
from llem_integrator.energy.backends import MEASURING
from llem_integrator.energy.codecarbon import NodeEnergy
from llem_integrator.energy.identity import Identity
from llem_integrator.energy.integral import Integrals, either, nothing
from llem_integrator.results.fields import GpuEnergy
from llem_integrator.results.request import Request
from llem_integrator.series.samples import Counts, Flags, Floats
from llem_integrator.series.spans import Index, Spans

_DISAGREEMENT: Final = 0.05
_STUCK: Final = (
    "the hardware energy counter stood still while the GPU drew power; that time is not covered by zeus "
    "(see nvidia-smi -q -d POWER, and reload the driver)"
)
_SKEWED: Final = (
    "the exporter's clock differs from the scraper's by more than 5 s; the time of the scrape is used "
    "(synchronise the clocks, for example by chrony)"
)
_TOLERANCE: Final = 1e-9
_FIGURES: Final = 4
"""Fields at the end of GpuEnergy that are worked out later, see figures.py."""


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """One GPU and what each backend measured of it in windows (w,); a backend without samples is absent."""

    uuid: str
    identity: Identity
    by_backend: Mapping[Backend, Integrals]
    gauge_watts: Floats
    bad: Counts
    conflicts: Counts

    def coverage(self, backend: Backend, count: int) -> Floats:
        found = self.by_backend.get(backend)
        return np.zeros(count) if found is None else found.coverage

    def present(self, backend: Backend, count: int) -> Flags:
        found = self.by_backend.get(backend)
        return np.zeros(count, np.bool_) if found is None else found.present

    def of(self, chosen: Index) -> Integrals | None:
        """The rows (w,) of the backends chosen, by their place in the order of priority."""
        if len(chosen) and np.all(chosen == chosen[0]) and PRIORITY[chosen[0]] in self.by_backend:
            return self.by_backend[PRIORITY[chosen[0]]]
        result: Integrals | None = None
        for backend, found in self.by_backend.items():
            mine = replace(found, present=found.present & (chosen == PRIORITY.index(backend)))
            result = mine if result is None else either(mine.present, mine, result)
        return result


@dataclass(frozen=True, slots=True, eq=False)
class Energies:
    """One GPU's energy in windows (w,), as columns: what was found by the backends `chosen`, by priority."""

    one: Measured
    chosen: Index
    found: Integrals
    shares: Floats
    grams_per_joule: Floats
    duration_s: Floats

    @property
    def joules(self) -> list[float | None]:
        return _cells(self.found.joules, self.found.known)

    def rows(self) -> list[GpuEnergy]:
        """A row a window."""
        one, found = self.one, self.found
        there, known, labels = found.present, found.known, one.identity.labels
        with np.errstate(invalid="ignore", divide="ignore"):
            means = found.joules / found.covered_s
        rows = zip(
            *map(repeat, (one.uuid, labels.get("gpu", ""), labels.get("name"), one.identity.instances)),
            self.joules,
            _cells(found.low, known),
            _cells(found.high, known),
            _cells(means, known),
            _cells(_peaks(one, found), known),
            map(PRIORITY.__getitem__, self.chosen.tolist()),
            _cells(found.method, there),
            self.shares.tolist(),
            np.where(there, found.covered_s, 0.0).tolist(),
            np.where(there, found.gap_s, self.duration_s).tolist(),
            _cells(found.largest_gap_s, there),
            _cells(found.max_gap_s, there),
            np.where(there, found.sample_count, 0).tolist(),
            np.where(there, found.resets, 0).tolist(),
            _by_backend(one, len(found)),
            _cells(found.joules * self.grams_per_joule, known),
            *repeat(repeat(None), _FIGURES),
            strict=False,  # what repeats has no end
        )
        return list(map(GpuEnergy._make, rows))


def energies(
    one: Measured, chosen: Index, carbon: NodeEnergy, spans: Spans, request: Request, *, split: bool
) -> Energies:
    """One GPU's energy; `chosen` (w,) are backends by priority. What is not split by GPU has no joules."""
    found = one.of(chosen)
    if found is None:
        found = nothing("", spans, 0.0, present=False)
    shares, unknown = found.coverage, np.full(len(spans), np.nan)
    if not split and carbon.gpu is not None:
        together = carbon.gpu.present & (chosen == PRIORITY.index(Backend.CODECARBON))
        found = either(together, replace(carbon.gpu, joules=unknown, low=unknown, high=unknown), found)
        shares = np.where(together, carbon.gpu.coverage, shares)
    rate = carbon.grams_per_joule if request.emissions else unknown
    return Energies(one, chosen, found, shares, rate, spans.duration_ms / 1000)


def _cells(column: Any, known: Flags) -> list[Any]:
    """A column's values, None where they are not known or NaN."""
    if column.dtype.kind == "f":
        known = known & ~np.isnan(column)
    if known.all():
        found: list[Any] = column.tolist()
        return found
    cells = column.astype(object)
    cells[~known] = None
    return list(cells.tolist())


def _by_backend(one: Measured, count: int) -> list[dict[str, float]]:
    columns = {str(backend): _cells(found.joules, found.known) for backend, found in one.by_backend.items()}
    names = list(columns)
    if not names:
        return [{} for _ in range(count)]
    rows = zip(*columns.values(), strict=True)
    if all(found.known.all() for found in one.by_backend.values()):
        return [dict(zip(names, row, strict=True)) for row in rows]
    return [
        {name: joules for name, joules in zip(names, row, strict=True) if joules is not None} for row in rows
    ]


def _peaks(one: Measured, found: Integrals) -> Floats:
    """The highest sample (w,) of the trace, else of the gauges; NaN where these missed it: below the mean."""
    nvml = one.by_backend.get(Backend.NVML)
    peaks = one.gauge_watts
    if nvml is not None:
        traced = nvml.present & ~np.isnan(nvml.peak_watts)
        peaks = np.where(traced, nvml.peak_watts, peaks)
    with np.errstate(invalid="ignore"):
        means = found.joules / found.covered_s
        missed = peaks < means * (1 - _TOLERANCE)
    # A mean of constant power may be above it by a rounding error.
    return np.where(missed, np.nan, np.fmax(peaks, np.where(np.isnan(peaks), np.nan, means)))


def faults(one: Measured, chosen: Index, min_coverage: float) -> dict[int, list[MeasurementWarning]]:
    """What is to be said of a GPU in each window, by the window's number; most have nothing."""
    found, said = one.of(chosen), defaultdict[int, list[MeasurementWarning]](list)
    if found is None:
        return said
    apart = _apart(one, min_coverage)
    zeus = one.by_backend.get(Backend.ZEUS)
    stuck = np.zeros(len(found), np.bool_) if zeus is None else zeus.stuck
    wrong = (found.gap_s > 0) | (found.resets > 0) | (found.late > 0) | apart | stuck | found.skewed
    wrong |= (one.bad > 0) | (one.conflicts > 0)
    for row in np.flatnonzero(wrong & (found.known | stuck)).tolist():
        if found.known[row]:
            said[row] += [MeasurementWarning(code, text, one.uuid) for code, text in _said(one, found, row)]
        if stuck[row]:
            said[row].append(MeasurementWarning(WarningCode.COUNTER_STUCK, _STUCK, one.uuid))
        if apart[row]:
            said[row].append(MeasurementWarning(*_disagreement(one, row), one.uuid))
    return said


def _apart(one: Measured, min_coverage: float) -> Flags:
    """Where zeus and nvml, both of enough coverage, are too far apart."""
    both = [one.by_backend[backend] for backend in MEASURING if backend in one.by_backend]
    if len(both) < len(MEASURING):
        return np.zeros(len(one.bad), np.bool_)
    enough = np.logical_and.reduce([found.known & (found.coverage >= min_coverage) for found in both])
    with np.errstate(invalid="ignore"):
        most, least = (pick(both[0].joules, both[1].joules) for pick in (np.maximum, np.minimum))
        apart: Flags = enough & (most - least > _DISAGREEMENT * most)
    return apart


def _disagreement(one: Measured, row: int) -> tuple[WarningCode, str]:
    joules = {name: one.by_backend[name].joules[row] for name in MEASURING}
    text = ", ".join(f"{name} {value:.1f} J" for name, value in joules.items())
    return WarningCode.BACKENDS_DISAGREE, f"more than 5 % apart: {text}"


def _said(one: Measured, found: Integrals, row: int) -> Iterator[tuple[WarningCode, str]]:
    integral = found.row(row)
    total_s = integral.covered_s + integral.gap_s
    if integral.gap_s > 0:
        longest_s = integral.largest_gap_s
        stretch = "" if longest_s is None else f", {longest_s:.3f} s at a stretch"
        yield (
            WarningCode.SAMPLE_GAP,
            f"{integral.gap_s:.3f} s of {total_s:.3f} s are not covered{stretch}",
        )
    if 0 < integral.gap_s <= integral.tail_gap_s * (1 + 1e-9):
        text = f"the source's newest sample is {integral.tail_gap_s:.3f} s before the window's end"
        yield WarningCode.NEWEST_MISSING, f"{text} (--wait waits for what is to come)"
    if integral.resets:
        yield WarningCode.COUNTER_RESET, f"the energy counter restarted {integral.resets} times"
    if integral.late:
        yield WarningCode.COUNTER_LATE, f"{integral.late} counter values fell a little, and were held"
    if integral.skewed:
        yield WarningCode.CLOCK_SKEW, _SKEWED
    if conflicts := int(one.conflicts[row]):
        yield WarningCode.CONFLICTING_SAMPLES, f"{conflicts} times carry unlike values; the larger was kept"
    if bad := int(one.bad[row]):
        yield WarningCode.BAD_SAMPLES, f"{bad} readings are no samples (NaN, infinite or negative)"
