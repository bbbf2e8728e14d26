"""Prometheus's remote read: raw chunks, decoded here while the next are on their way.

Source: https://prometheus.io/docs/prometheus/latest/querying/remote_read_api/
"""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final, ParamSpec, TypeVar

import cramjam

from llem_core.errors import SourceError
from llem_integrator.http.client import Abort, Http, Stream
from llem_integrator.remote_read import frames, samples, xor
from llem_integrator.remote_read.batch import Decoded, batch
from llem_integrator.remote_read.messages import HEADERS, Form, Key, labels, request
from llem_integrator.series.matchers import Selector, named
from llem_integrator.series.samples import Times, Values
from llem_integrator.stores.ahead import Ahead
from llem_integrator.stores.base import Piece, Progress
from llem_integrator.stores.buffers import Buffers
from llem_integrator.stores.parts import Part, joined, trimmed
from llem_integrator.stores.slabs import TARGET_SAMPLES, Slabs, TooMuchError, refuse_too_much

_SAMPLE_BYTES: Final = 24
"""More than a sample takes in a ReadResponse, its share of the labels included."""
_READ: Final = "/api/v1/read"
_OFF: Final = (200, 400, 403, 404, 405, 406, 415, 501)
"""Answers where remote read is not available: of the server, of a proxy, or of a login page."""
_HELD_SLABS: Final = 2
_DECODERS: Final = 2


P = ParamSpec("P")
Found = TypeVar("Found")


class NotOfferedError(Exception):
    """The server does not answer remote read."""


@dataclass(slots=True)
class _Slab:
    """What came for [start_ms, end_ms], being decoded into room of a buffer, of which `samples` are taken."""

    start_ms: int
    end_ms: int
    limit: int
    buffers: Buffers
    samples: int = 0
    parts: list[Future[Decoded]] = field(default_factory=list)
    _room: tuple[Times, Values] = field(init=False)

    def begin(self) -> None:
        """From the start, in a buffer that nobody decodes into: of an answer that broke, parts may be."""
        self._room, self.samples, self.parts = self.buffers.take(), 0, []

    def add(self, count: int) -> tuple[Times, Values]:
        """Room for so many samples more; raises TooMuchError."""
        own = slice(self.samples, self.samples + count)
        self.samples += count
        if self.samples > self.limit:
            raise TooMuchError(f"more than {self.limit} samples")
        return self._room[0][own], self._room[1][own]


class _Here(Executor):
    """Does the work where it is handed in."""

    def submit(self, fn: Callable[P, Found], /, *args: P.args, **kwargs: P.kwargs) -> Future[Found]:
        future: Future[Found] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except SourceError as exc:
            future.set_exception(exc)
        return future


class RemoteRead:
    """A server's /api/v1/read."""

    def __init__(self, http: Http, slab_samples: int = TARGET_SAMPLES) -> None:
        self._http, self._slab_samples = http, slab_samples
        self._origin = f"{http.address}: remote read"
        self._form = Form.CHUNKS
        self._answered = False
        self._labels: dict[Key, tuple[str, dict[str, str]]] = {}
        # Small answers have their own: beside each other they would have ever more of the large ones filled.
        self._buffers, self._small = Buffers(2 * TARGET_SAMPLES), Buffers(2 * TARGET_SAMPLES)

    def pieces(
        self, metric: str, selector: Selector, start_ms: int, end_ms: int, progress: Progress
    ) -> Iterator[Piece]:
        """As a source's; raises NotOfferedError, before anything else, where there is no remote read."""
        matchers, abort = (named(metric), *selector), Abort()
        slabs = Slabs(start_ms, end_ms, self._slab_samples)
        if slabs.next() == (start_ms, end_ms):  # what is small is read and decoded here: threads cost more
            for slab in self._fetched(matchers, slabs, self._small, _Here(), abort):
                yield self._piece(slab)
                progress((slab.end_ms - start_ms + 1) / (end_ms - start_ms + 1))
            return
        with ThreadPoolExecutor(_DECODERS, "llem-decode") as pool:
            fetched = self._fetched(matchers, slabs, self._buffers, pool, abort)
            try:
                with Ahead(fetched, _HELD_SLABS, abort) as ahead:
                    for slab in ahead:
                        yield self._piece(slab)
                        progress((slab.end_ms - start_ms + 1) / (end_ms - start_ms + 1))
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _fetched(
        self, matchers: Selector, slabs: Slabs, buffers: Buffers, pool: Executor, abort: Abort
    ) -> Generator[_Slab, None, None]:
        """Slab after slab as it has come, its decoding begun."""
        metric = matchers[0].value
        while bounds := slabs.next():
            try:
                slab = _Slab(*bounds, slabs.limit, buffers)
                self._http.patiently(partial(self._fill, slab, matchers, pool, abort))
            except TooMuchError as exc:
                if not slabs.shorten():
                    raise SourceError(f"{self._http.address} refuses 1 s of {metric}: {exc}") from exc
                continue
            except frames.EncodingError as exc:
                if exc.histogram:
                    what = "holds native histograms, which are no samples"
                    raise SourceError(f"{self._origin}: {metric} {what}") from exc
                if self._form is Form.SAMPLES:  # and would be so for ever
                    raise SourceError(f"{self._origin}: {exc}, though samples were asked for") from exc
                self._form = Form.SAMPLES
                continue
            xor.expect(slabs.taken(slab.samples))
            yield slab

    def _fill(self, slab: _Slab, matchers: Selector, pool: Executor, abort: Abort) -> None:
        """Fetch what the slab is of, from its start on."""
        slab.begin()
        body = request(matchers, slab.start_ms, slab.end_ms, self._form)
        try:
            with (
                self._http.open("POST", _READ, body=body, headers=HEADERS) as stream,
                abort.of(stream),
            ):
                if self._kind(stream).startswith("application/x-streamed-protobuf"):
                    self._chunks(stream, slab, pool)
                else:
                    self._samples(stream, slab, pool)
        except BaseException as exc:
            for part in slab.parts:
                part.cancel()
            if isinstance(exc, frames.FrameError):
                raise SourceError(f"{self._origin}: {exc}") from exc
            raise

    def _kind(self, stream: Stream) -> str:
        """The type of an answer that is samples; raises where it is another."""
        kind = stream.headers.get("content-type", "")
        if stream.status == 200 and kind.startswith(("application/x-streamed", "application/x-protobuf")):
            stream.check_end()
            self._answered = True
            return kind
        answer = stream.answer()
        refuse_too_much(answer)
        if answer.status in _OFF and not self._answered:
            raise NotOfferedError
        raise self._http.refusal(_READ, answer)

    def _chunks(self, stream: Stream, slab: _Slab, pool: Executor) -> None:
        for data, some in frames.read_frames(stream.read):
            found = batch(data, some)
            room = slab.add(found.samples)
            slab.parts.append(pool.submit(found.decoded, room, slab.start_ms, slab.end_ms, self._origin))

    def _samples(self, stream: Stream, slab: _Slab, pool: Executor) -> None:
        most = slab.limit * _SAMPLE_BYTES
        body = stream.read(most)
        try:
            if stream.read(1) or cramjam.snappy.decompress_raw_len(body) > most:
                raise TooMuchError(f"more than {most} bytes")
            message = bytes(cramjam.snappy.decompress_raw(body))
        except cramjam.DecompressionError as exc:
            raise SourceError(f"{self._origin}: not a block of snappy: {exc}") from exc
        slab.samples = len(message) // _SAMPLE_BYTES
        slab.parts.append(pool.submit(self._read, message, slab.start_ms, slab.end_ms))

    def _read(self, message: bytes, start_ms: int, end_ms: int) -> Decoded:
        try:
            found = samples.timeseries(message)
            return [(key, trimmed(unix_ms, values, start_ms, end_ms)) for key, unix_ms, values in found]
        except ValueError as exc:
            raise SourceError(f"{self._origin}: not the samples it says it is: {exc}") from exc

    def _piece(self, slab: _Slab) -> Piece:
        by_key: dict[Key, list[Part]] = {}
        few = slab.samples < self._slab_samples // 4
        for future in slab.parts:
            for key, part in future.result():
                # A few samples that are kept must not keep a buffer.
                by_key.setdefault(key, []).append(part.copied() if few else part)
        slab.parts.clear()
        series = (joined(*self._named(key), parts) for key, parts in by_key.items())
        return Piece(slab.start_ms, slab.end_ms, tuple(one for one in series if len(one) or one.bad))

    def _named(self, key: Key) -> tuple[str, dict[str, str]]:
        if key not in self._labels:
            try:
                self._labels[key] = labels(key)
            except ValueError as exc:
                raise SourceError(f"{self._origin}: labels that are none: {exc}") from exc
        return self._labels[key]
