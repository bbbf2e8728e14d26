"""Prometheus's remote read: raw chunks, which are decoded while the next ones arrive.

Source: https://prometheus.io/docs/prometheus/latest/querying/remote_read_api/
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Final

from llem_core.errors import SourceError
from llem_integrator.http.client import Abort, Http, Stream
from llem_integrator.remote_read import xor
from llem_integrator.remote_read.batch import ChunkBatch, EncodingError, batch
from llem_integrator.remote_read.frames import FrameError, read_frames
from llem_integrator.remote_read.messages import HEADERS, WireLabels, labels, request
from llem_integrator.series.matchers import Selector, named
from llem_integrator.series.samples import Series, joined
from llem_integrator.stores.ahead import ahead
from llem_integrator.stores.base import Piece
from llem_integrator.stores.queries.slabs import (
    TARGET_SAMPLES,
    TooMuchError,
    in_one_slab,
    in_slabs,
    refuse_too_much,
)

_READ: Final = "/api/v1/read"
_OFF: Final = (400, 403, 404, 405, 406, 415, 501)
"""Answers of a server or a proxy where remote read is not available."""
_HELD_SLABS: Final = 2
_DECODERS: Final = 2

_Decoded = Future[list[tuple[WireLabels, Series]]]
_Decode = Callable[[tuple[int, int], ChunkBatch], _Decoded]


class NotOfferedError(Exception):
    """The server does not answer remote read with XOR chunks; JSON is the alternative."""


@dataclass(frozen=True, slots=True)
class _Slab:
    """The samples in [start_ms, end_ms], in parts that are still being decoded."""

    start_ms: int
    end_ms: int
    samples: int
    parts: list[_Decoded]


class RemoteRead:
    """Reads from /api/v1/read of one server."""

    def __init__(self, http: Http, slab_samples: int = TARGET_SAMPLES) -> None:
        self._http, self._slab_samples = http, slab_samples
        self._origin = f"{http.address}: remote read"
        self._answered = False
        self._labels: dict[WireLabels, tuple[str, dict[str, str]]] = {}

    def pieces(self, metric: str, selector: Selector, start_ms: int, end_ms: int) -> Iterator[Piece]:
        """Yield the samples in slabs; raises NotOfferedError if the rest must be read as JSON."""
        abort, what = Abort(), f"{metric} of {self._http.address}"
        single = in_one_slab(start_ms, end_ms)  # for which threads cost more than they save
        with ThreadPoolExecutor(_DECODERS, "llem-decode") as pool:

            def decode(bounds: tuple[int, int], chunks: ChunkBatch) -> _Decoded:
                if not single:
                    return pool.submit(chunks.decoded, *bounds, self._origin)
                decoded: _Decoded = Future()
                decoded.set_result(chunks.decoded(*bounds, self._origin))
                return decoded

            read = partial(self._slab, (named(metric), *selector), decode, abort)
            fetched = in_slabs(start_ms, end_ms, self._slab_samples, read, what)
            with closing(fetched if single else ahead(fetched, _HELD_SLABS, abort)) as slabs:
                for slab in slabs:
                    xor.expect(slab.samples * (end_ms - slab.end_ms) // (slab.end_ms - slab.start_ms + 1))
                    yield self._piece(slab)

    def _slab(
        self, matchers: Selector, decode: _Decode, abort: Abort, start_ms: int, end_ms: int, limit: int
    ) -> tuple[_Slab, int]:
        """Return a slab that has arrived and is being decoded, and its number of samples."""
        bounds = start_ms, end_ms
        fetch = partial(self._fetched, request(matchers, *bounds), partial(decode, bounds), abort, limit)
        try:
            parts, samples = self._http.patiently(fetch)
        except FrameError as exc:
            raise SourceError(f"{self._origin}: {exc}") from exc
        except EncodingError as exc:
            if exc.histogram:
                what = "holds native histograms, which are not supported"
                raise SourceError(f"{self._origin}: {matchers[0].value} {what}") from exc
            raise NotOfferedError from exc
        return _Slab(start_ms, end_ms, samples, parts), samples

    def _fetched(
        self, body: bytes, decode: Callable[[ChunkBatch], _Decoded], abort: Abort, limit: int
    ) -> tuple[list[_Decoded], int]:
        """Return all parts of an answer, which are being decoded, and their number of samples."""
        parts: list[_Decoded] = []
        samples = 0
        with self._http.open("POST", _READ, body=body, headers=HEADERS) as stream, abort.of(stream):
            self._check(stream)
            for data, frames in read_frames(stream.read):
                chunks = batch(data, frames)
                samples += chunks.samples
                if samples > limit:
                    raise TooMuchError(f"more than {limit} samples")
                parts.append(decode(chunks))
        return parts, samples

    def _check(self, stream: Stream) -> None:
        """Raise an error that fits if the answer does not hold chunks."""
        kind = stream.headers.get("content-type", "")
        if stream.status == 200 and kind.startswith("application/x-streamed-protobuf"):
            stream.check_end()
            self._answered = True
            return
        if stream.status == 200 and not self._answered:  # a login page, or a server without chunks
            raise NotOfferedError
        answer = stream.answer()
        refuse_too_much(answer)
        if answer.status in _OFF and not self._answered:
            raise NotOfferedError
        raise self._http.refusal(_READ, answer)

    def _piece(self, slab: _Slab) -> Piece:
        by_labels: dict[WireLabels, list[Series]] = {}
        for future in slab.parts:
            for encoded, part in future.result():
                by_labels.setdefault(encoded, []).append(part)
        slab.parts.clear()
        series = (self._joined(encoded, parts) for encoded, parts in by_labels.items())
        return Piece(slab.start_ms, slab.end_ms, tuple(one for one in series if len(one) or one.bad))

    def _joined(self, encoded: WireLabels, parts: list[Series]) -> Series:
        if encoded not in self._labels:
            try:
                self._labels[encoded] = labels(encoded)
            except ValueError as exc:
                raise SourceError(f"{self._origin}: invalid labels: {exc}") from exc
        metric, own_labels = self._labels[encoded]
        return joined(own_labels, parts, metric)
