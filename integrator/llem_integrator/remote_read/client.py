"""Prometheus's remote read: raw chunks, which are decoded while the next ones arrive.

Source: https://prometheus.io/docs/prometheus/latest/querying/remote_read_api/
"""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final, ParamSpec, TypeVar

from llem_core.errors import SourceError
from llem_integrator.http.client import Abort, Http, Stream
from llem_integrator.remote_read import xor
from llem_integrator.remote_read.batch import EncodingError, batch
from llem_integrator.remote_read.frames import FrameError, read_frames
from llem_integrator.remote_read.messages import HEADERS, WireLabels, labels, request
from llem_integrator.series.matchers import Selector, named
from llem_integrator.series.samples import Series, joined
from llem_integrator.stores.ahead import Ahead
from llem_integrator.stores.base import Piece, Progress
from llem_integrator.stores.slabs import TARGET_SAMPLES, Slabs, TooMuchError, refuse_too_much

_READ: Final = "/api/v1/read"
_OFF: Final = (400, 403, 404, 405, 406, 415, 501)
"""Answers of a server or a proxy where remote read is not available."""
_HELD_SLABS: Final = 2
_DECODERS: Final = 2


P = ParamSpec("P")
Result = TypeVar("Result")


class NotOfferedError(Exception):
    """The server does not answer remote read with XOR chunks; JSON is the alternative."""


@dataclass(slots=True)
class _Slab:
    """The samples in [start_ms, end_ms], in parts that are still being decoded."""

    start_ms: int
    end_ms: int
    limit: int
    samples: int = 0
    parts: list[Future[list[tuple[WireLabels, Series]]]] = field(default_factory=list)


class _Here(Executor):
    """Runs the work in the thread that submits it."""

    def submit(self, fn: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs) -> Future[Result]:
        future: Future[Result] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except SourceError as exc:
            future.set_exception(exc)
        return future


class RemoteRead:
    """Reads from /api/v1/read of one server."""

    def __init__(self, http: Http, slab_samples: int = TARGET_SAMPLES) -> None:
        self._http, self._slab_samples = http, slab_samples
        self._origin = f"{http.address}: remote read"
        self._answered = False
        self._labels: dict[WireLabels, tuple[str, dict[str, str]]] = {}

    def pieces(
        self, metric: str, selector: Selector, start_ms: int, end_ms: int, progress: Progress
    ) -> Iterator[Piece]:
        """Yield the samples in slabs; raises NotOfferedError if the rest must be read as JSON."""
        matchers, abort = (named(metric), *selector), Abort()
        slabs = Slabs(start_ms, end_ms, self._slab_samples)
        if slabs.next() == (start_ms, end_ms):  # for a single slab, threads cost more than they save
            for slab in self._fetched(matchers, slabs, _Here(), abort):
                yield self._piece(slab)
                progress((slab.end_ms - start_ms + 1) / (end_ms - start_ms + 1))
            return
        with ThreadPoolExecutor(_DECODERS, "llem-decode") as pool:
            fetched = self._fetched(matchers, slabs, pool, abort)
            try:
                with Ahead(fetched, _HELD_SLABS, abort) as ahead:
                    for slab in ahead:
                        yield self._piece(slab)
                        progress((slab.end_ms - start_ms + 1) / (end_ms - start_ms + 1))
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _fetched(
        self, matchers: Selector, slabs: Slabs, pool: Executor, abort: Abort
    ) -> Generator[_Slab, None, None]:
        """Yield each slab when it has arrived and its decoding has begun."""
        metric = matchers[0].value
        while bounds := slabs.next():
            try:
                slab = _Slab(*bounds, slabs.limit)
                self._http.patiently(partial(self._fill, slab, matchers, pool, abort))
            except TooMuchError as exc:
                if not slabs.shorten():
                    what = f"{metric} of {self._http.address}"
                    raise SourceError(f"{what} cannot be read even in parts of 1 s: {exc}") from exc
                continue
            except EncodingError as exc:
                if exc.histogram:
                    what = "holds native histograms, which are not supported"
                    raise SourceError(f"{self._origin}: {metric} {what}") from exc
                raise NotOfferedError from exc
            xor.expect(slabs.taken(slab.samples))
            yield slab

    def _fill(self, slab: _Slab, matchers: Selector, pool: Executor, abort: Abort) -> None:
        """Fetch all chunks of the slab, and submit them for decoding."""
        slab.samples, slab.parts = 0, []
        body = request(matchers, slab.start_ms, slab.end_ms)
        try:
            with (
                self._http.open("POST", _READ, body=body, headers=HEADERS) as stream,
                abort.of(stream),
            ):
                self._check(stream)
                self._chunks(stream, slab, pool)
        except BaseException as exc:
            for part in slab.parts:
                part.cancel()
            if isinstance(exc, FrameError):
                raise SourceError(f"{self._origin}: {exc}") from exc
            raise

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

    def _chunks(self, stream: Stream, slab: _Slab, pool: Executor) -> None:
        for data, frames in read_frames(stream.read):
            chunks = batch(data, frames)
            slab.samples += chunks.samples
            if slab.samples > slab.limit:
                raise TooMuchError(f"more than {slab.limit} samples")
            slab.parts.append(pool.submit(chunks.decoded, slab.start_ms, slab.end_ms, self._origin))

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
