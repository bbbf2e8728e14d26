"""Samples of many series out of memory's way: times and values in a temporary file, found by time."""

import os
import shutil
import tempfile
import threading
import weakref
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llem_core.errors import SourceError
from llem_integrator.series.samples import Series, Times, Values
from llem_integrator.stores.parts import Part, joined, trimmed

CHUNK_SAMPLES: Final = 8192
"""Of one series, written together: 128 KiB."""
_HELD_SAMPLES: Final = 1 << 20
"""So many of all series wait in memory to be written: 16 MiB."""
_IN_MEMORY_BYTES: Final = 16 << 20
"""What is smaller never reaches a disk."""
_MOST_SERIES: Final = 1_000_000
_FREE_SHARE: Final = 0.9
"""Of what is free on the disk, no more than this is taken."""
_ROW: Final = ("series", "offset", "count", "first_ms", "last_ms")

Index = NDArray[np.int64]
"""Chunks (c, 5), as _ROW says."""


class Columns:
    """Series by number, their samples in any order; `add` them all, `close`, then ask by time.

    The file has no name, so that it is gone with the process, however that ends.
    """

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._folder = _folder()
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES, dir=self._folder)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._most_bytes = max(_IN_MEMORY_BYTES, int(_FREE_SHARE * shutil.disk_usage(self._folder).free))
        self._lock = threading.Lock()
        self._end = 0
        self._rows = array("q")
        self._index: Index = np.empty((0, len(_ROW)), np.int64)
        self._times: list[array[int]] = []
        self._values: list[array[float]] = []
        self._held = 0
        self._numbers: dict[tuple[str, tuple[tuple[str, str], ...]], int] = {}
        self.labels: list[Mapping[str, str]] = []
        self._metrics: list[str] = []
        self._of_metric: dict[str, list[int]] = {}

    def number(self, metric: str, labels: Mapping[str, str]) -> int:
        """The number of a series, in whatever order its labels are; raises SourceError beyond a million."""
        key = metric, tuple(sorted(labels.items()))
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = len(self.labels)
            if found >= _MOST_SERIES:
                raise SourceError(f"{self._origin}: more than {_MOST_SERIES} series")
            self.labels.append(dict(labels))
            self._metrics.append(metric)
            self._times.append(array("q"))
            self._values.append(array("d"))
            self._of_metric.setdefault(metric, []).append(found)
        return found

    def series_of(self, metric: str) -> Sequence[int]:
        return self._of_metric.get(metric, ())

    def series(self, number: int, parts: Sequence[Part]) -> Series:
        """Return the samples of a series, which came in parts."""
        return joined(self._metrics[number], self.labels[number], parts)

    def add_one(self, series: int, unix_ms: int, value: float) -> None:
        times = self._times[series]
        times.append(unix_ms)
        self._values[series].append(value)
        self._grown(series, len(times), 1)

    def add(self, series: int, unix_ms: Times, values: Values) -> None:
        """Samples (n,) of one series, after those that came before."""
        times = self._times[series]
        if not times and len(unix_ms) >= CHUNK_SAMPLES // 2:
            self._write(series, unix_ms, values)
            return
        times.frombytes(np.ascontiguousarray(unix_ms).view(np.uint8).data)
        self._values[series].frombytes(np.ascontiguousarray(values).view(np.uint8).data)
        self._grown(series, len(times), len(unix_ms))

    def close(self) -> None:
        """No more samples come."""
        self._flush()
        self._index = np.frombuffer(self._rows, np.int64).reshape(-1, len(_ROW))

    def chunks(self, series: Sequence[int]) -> Index:
        """The chunks of some series."""
        return self._index[np.isin(self._index[:, 0], series)]

    def parts(self, chunks: Index, start_ms: int, end_ms: int) -> Iterator[tuple[int, list[Part]]]:
        """Each series' samples in [start_ms, end_ms], of those chunks, in the order they came."""
        inside = chunks[(chunks[:, 4] >= start_ms) & (chunks[:, 3] <= end_ms)]
        inside = inside[np.argsort(inside[:, 0], kind="stable")]
        bounds = np.flatnonzero(np.diff(inside[:, 0], prepend=-1, append=-1))
        for first, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            rows = inside[first:stop].tolist()
            yield rows[0][0], [trimmed(*self._read(row[1], row[2]), start_ms, end_ms) for row in rows]

    def _grown(self, series: int, length: int, by: int) -> None:
        self._held += by
        if length >= CHUNK_SAMPLES:
            self._flush_one(series)
        elif self._held > _HELD_SAMPLES:
            self._flush()

    def _flush(self) -> None:
        for series, times in enumerate(self._times):
            if times:
                self._flush_one(series)

    def _flush_one(self, series: int) -> None:
        times, values = self._times[series], self._values[series]
        self._write(series, np.frombuffer(times, np.int64), np.frombuffer(values))
        self._held -= len(times)
        self._times[series], self._values[series] = array("q"), array("d")

    def _write(self, series: int, unix_ms: Times, values: Values) -> None:
        size = unix_ms.nbytes + values.nbytes
        if self._end + size > self._most_bytes:
            raise self._full(f"{self._most_bytes >> 20} MiB")
        try:
            self._file.write(unix_ms.tobytes())
            self._file.write(values.tobytes())
        except OSError as exc:
            raise self._full(exc.strerror or "an error") from exc
        self._rows.extend((series, self._end, len(unix_ms), int(unix_ms.min()), int(unix_ms.max())))
        self._end += size

    def _full(self, why: str) -> SourceError:
        place = f"a temporary file in {self._folder} (set TMPDIR for another place)"
        return SourceError(f"{self._origin}: more samples than fit into {place}: {why}")

    def _read(self, offset: int, count: int) -> tuple[Times, Values]:
        with self._lock:
            self._file.seek(offset)
            data = self._file.read(16 * count)
        return np.frombuffer(data, np.int64, count), np.frombuffer(data, np.float64, count, 8 * count)


def _folder() -> str:
    """Where large temporary files go: /tmp may be memory, too. Source: file-hierarchy(7), /var/tmp/."""
    large = Path("/var/tmp")  # noqa: S108 (a file without a name is no one else's to find)
    if "TMPDIR" not in os.environ and os.access(large, os.W_OK):
        return str(large)
    return tempfile.gettempdir()
