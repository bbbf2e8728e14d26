"""A temporary file of samples, so that a source may be larger than memory."""

import os
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llem_core.errors import SourceError
from llem_integrator.series.matchers import Selector
from llem_integrator.series.samples import Key, Times, Values

_CHUNK_SAMPLES: Final = 8192
_PENDING_SAMPLES: Final = 1 << 19
"""Samples that wait in memory to be sorted and written: 12 MiB."""
_IN_MEMORY_BYTES: Final = 16 << 20
"""A smaller file stays in memory."""
_MOST_SERIES: Final = 1_000_000

_SAMPLE: Final = np.dtype([("unix_ms", np.int64), ("value", np.float64)])
_CHUNK: Final = np.dtype([(name, np.int64) for name in ("series", "start", "count", "first_ms", "last_ms")])
"""Samples [start, start + count) of the file belong to one series; their times are in [first_ms, last_ms]."""


class Spool:
    """Samples of numbered series, in any order. Add all of them, call close(), then read.

    The file has no name, so it is deleted when the process ends, however it ends.
    """

    def __init__(self, origin: str) -> None:
        self._origin, self._folder = origin, _folder()
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES, dir=self._folder)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._samples = 0
        self._pending: list[tuple[Times, Times, Values]] = []
        self._pending_samples = 0
        self._chunks: list[NDArray[np.void]] = []
        self._numbers: dict[tuple[str, Key], int] = {}
        self._of_metric: dict[str, list[int]] = {}
        self.metrics: list[str] = []
        self.labels: list[Mapping[str, str]] = []

    def number(self, metric: str, labels: Mapping[str, str]) -> int:
        """Return the number of a series, for labels in any order; raises SourceError for too many series."""
        key = metric, tuple(sorted(labels.items()))
        if (number := self._numbers.get(key)) is None:
            number = self._numbers[key] = len(self._numbers)
            if number >= _MOST_SERIES:
                raise SourceError(f"{self._origin}: more than {_MOST_SERIES} series")
            self._of_metric.setdefault(metric, []).append(number)
            self.metrics.append(metric)
            self.labels.append(dict(labels))
        return number

    def add(self, series: Times, unix_ms: Times, values: Values) -> None:
        """Add samples (n,), `series` being their series' numbers; raises SourceError if the disk is full."""
        self._pending.append((series, unix_ms, values))
        self._pending_samples += len(series)
        if self._pending_samples >= _PENDING_SAMPLES:
            self._write()

    def close(self) -> None:
        """End the writing; raises SourceError if the disk is full."""
        self._write()
        chunks = np.concatenate([np.empty(0, _CHUNK), *self._chunks])
        self._chunks = [chunks[np.argsort(chunks["series"], kind="stable")]]

    def chunks(self, metric: str, selector: Selector) -> NDArray[np.void]:
        """Return the chunks (c,) of the selected series of one or more metrics, of dtype _CHUNK."""
        wanted = [
            number
            for name in metric.split("|")
            for number in self._of_metric.get(name, ())
            if all(matcher(self.labels[number]) for matcher in selector)
        ]
        (chunks,) = self._chunks
        return chunks[np.isin(chunks["series"], wanted)]

    def read(self, start: int, count: int) -> tuple[Times, Values]:
        """Return times and values of samples [start, start + count) of the file."""
        self._file.seek(start * _SAMPLE.itemsize)
        samples = np.frombuffer(self._file.read(count * _SAMPLE.itemsize), _SAMPLE)
        return samples["unix_ms"].copy(), samples["value"].copy()

    def _write(self) -> None:
        """Write the pending samples, series by series."""
        if not self._pending_samples:
            return
        series, unix_ms, values = (np.concatenate(column) for column in zip(*self._pending, strict=True))
        order = np.argsort(series, kind="stable")
        samples = np.empty(len(order), _SAMPLE)
        samples["unix_ms"], samples["value"] = unix_ms[order], values[order]
        try:
            self._file.write(samples.tobytes())
            self._file.flush()
        except OSError as exc:
            place = f"a temporary file in {self._folder} (set TMPDIR to use another folder)"
            raise SourceError(
                f"{self._origin}: the samples do not fit into {place}: {exc.strerror or exc}"
            ) from exc
        self._chunks.append(_chunks(series[order], samples["unix_ms"], self._samples))
        self._samples += len(order)
        self._pending, self._pending_samples = [], 0


def _chunks(series: Times, unix_ms: Times, start: int) -> NDArray[np.void]:
    """Return the chunks of samples (n,) that are sorted by series and begin at `start` in the file."""
    count = len(series)
    firsts = np.flatnonzero(np.diff(series, prepend=-1))
    places = np.arange(count) - np.repeat(firsts, np.diff(firsts, append=count))
    firsts = np.flatnonzero(places % _CHUNK_SAMPLES == 0)
    chunks = np.empty(len(firsts), _CHUNK)
    chunks["series"], chunks["start"] = series[firsts], start + firsts
    chunks["count"] = np.diff(firsts, append=count)
    chunks["first_ms"] = np.minimum.reduceat(unix_ms, firsts)
    chunks["last_ms"] = np.maximum.reduceat(unix_ms, firsts)
    return chunks


def _folder() -> str:
    """Return the folder for large temporary files; /tmp may be in memory. Source: file-hierarchy(7)."""
    large = Path("/var/tmp")  # noqa: S108 (the file has no name that others could find)
    if "TMPDIR" not in os.environ and os.access(large, os.W_OK):
        return str(large)
    return tempfile.gettempdir()
