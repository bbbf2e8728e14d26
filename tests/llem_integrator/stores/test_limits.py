"""Limits of servers: a query that exceeds one is split in time, and every sample is read."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import cramjam
import pytest

from llem_core.errors import SourceError
from llem_integrator.http.client import Answer, Http
from llem_integrator.remote_read.wire import fields, read_varint
from llem_integrator.stores.prometheus import PrometheusSource
from llem_integrator.stores.queries.slabs import TooMuchError, in_slabs, refuse_too_much
from llem_integrator.windows.job_lookup import find_job
from tests.llem_integrator.pages import T0, page
from tests.llem_integrator.stand_ins import Asked, Reply, StandIn, always, between
from tests.llem_integrator.traces import T0 as TRACE_T0
from tests.llem_integrator.traces import fetch
from tests.llem_integrator.windows.test_job_lookup import NOW_US, ran
from tests.servers import Prometheus, PrometheusRelease

DAY_MS = 86_400_000
QUERY_LENGTH = "the query time range exceeds the limit (query length: 9600h0m0s, limit: 768h0m0s)"


def length_ms(asked: Asked) -> int:
    """The range of a query or of a remote read, 0 of any other request."""
    if asked.path.endswith("/api/v1/query"):
        ranges = re.findall(r"\[(\d+)ms\]", parse_qs(asked.body.decode())["query"][0])
        return max(map(int, ranges), default=0)
    if asked.path.endswith("/api/v1/read"):
        message = bytes(cramjam.snappy.decompress_raw(asked.body))
        ((_, _, begin, end), *_) = fields(message, 0, len(message))
        edges = {number: at for number, _, at, _ in fields(message, begin, end)}
        (start_ms, _), (end_ms, _) = (read_varint(message, edges[number], end) for number in (1, 2))
        return end_ms - start_ms
    return 0


def mimir(asked: Asked, longest_ms: int) -> Reply | None:
    """Refuse long queries as Mimir's query API and its remote read do."""
    if length_ms(asked) <= longest_ms:
        return None
    text = (
        f"{QUERY_LENGTH} (err-mimir-max-total-query-length). To adjust the related limit, contact your admin."
    )
    if asked.path.endswith("/api/v1/read"):
        return Reply(400, text.encode())
    return Reply(422, json.dumps({"status": "error", "errorType": "execution", "error": text}).encode())


def refusing(longest_ms: int) -> Callable[[Asked], Reply | None]:
    return lambda asked: mimir(asked, longest_ms)


@pytest.mark.parametrize("remote_read", [True, False])
def test_400_days_are_read_in_parts_of_32(
    tmp_path: Path, prometheus_release: PrometheusRelease, remote_read: bool
) -> None:
    """--job looks 400 days back. With Mimir's usual limit of 32 days, the job is found in few requests."""
    text = page(ran(0, (300, 600), (2400, 3000)))
    with (
        Prometheus.on_blocks(tmp_path, text, release=prometheus_release) as server,
        between(server.url, before=refusing(32 * DAY_MS)) as proxy,
    ):
        source = PrometheusSource(Http(proxy.url), remote_read=remote_read)
        windows = find_job(source, "7", now_us=NOW_US)
        assert [(one.start_us // 1000 - T0, one.end_us // 1000 - T0) for one in windows] == [
            (300_000, 585_000),
            (2_400_000, 2_985_000),
        ]
        reads = [asked for asked in proxy.asked if urlsplit(asked.path).path.endswith(("/read", "/query"))]
        assert len(reads) < 50


@pytest.mark.parametrize("remote_read", [True, False])
def test_a_limit_on_the_length_hides_no_sample(traced: Prometheus, remote_read: bool) -> None:
    """With queries of at most 100 s, the samples are the same."""
    end_ms = TRACE_T0 + 1_000_000
    with between(traced.url, before=refusing(100_000)) as proxy:
        source = PrometheusSource(Http(proxy.url), remote_read=remote_read)
        series = fetch(source, TRACE_T0, end_ms)
        assert [one.unix_ms.tolist() for one in series] == [list(range(TRACE_T0, end_ms + 1, 100))] * 2


@pytest.mark.parametrize("remote_read", [True, False])
@pytest.mark.parametrize("longest_ms", [19_000, 20_000, 36_000])
def test_a_refused_length_is_not_tried_again(traced: Prometheus, remote_read: bool, longest_ms: int) -> None:
    """However many parts follow, the server refuses only those with which a length that fits is searched."""
    refusals = 0

    def counted(asked: Asked) -> Reply | None:
        nonlocal refusals
        refusal = mimir(asked, longest_ms)
        refusals += refusal is not None
        return refusal

    with between(traced.url, before=counted) as proxy:
        source = PrometheusSource(Http(proxy.url), remote_read=remote_read)
        series = fetch(source, TRACE_T0, TRACE_T0 + 1_000_000)
        assert [len(one) for one in series] == [10_001] * 2
    assert refusals <= 5


def test_a_limit_on_samples_holds_only_where_it_is_exceeded() -> None:
    """After a dense day, 100 days without samples are read in long parts again."""
    lengths_ms = []

    def read(start_ms: int, end_ms: int, _limit: int) -> tuple[None, int]:
        if start_ms < DAY_MS and end_ms - start_ms > 1_000_000:
            refuse_too_much(Answer(422, b"exceeded sample limit (50000000)"))
        lengths_ms.append(end_ms - start_ms + 1)
        return None, 0

    assert list(in_slabs(0, 100 * DAY_MS, 1_000_000, read, "metric"))
    assert max(lengths_ms) > 10 * DAY_MS


LIMITS = [
    (422, f"expanding series: {QUERY_LENGTH}"),
    (
        422,
        "the query exceeded the maximum number of chunks (limit: 9) (err-mimir-max-chunks-per-query)",
    ),
    (
        422,
        "the query exceeded the aggregated chunks size limit (err-mimir-max-chunks-bytes-per-query)",
    ),
    (422, "the query exceeded the maximum allowed estimated amount of memory consumed by a single query"),
    (422, "query processing would load too many samples into memory in query execution"),
    (500, "the query hit the max number of chunks limit (limit: 2000000 chunks)"),
    (400, "exceeded sample limit (50000000)"),
    (422, "rpc error: code = ResourceExhausted desc = grpc: received message larger than max (9 vs. 4)"),
    (422, "expanding series: exceeded samples limit: limit 1000 violated (got 2000)"),
    (422, "cannot select more than -search.maxSamplesPerQuery=1000000000 samples"),
]
NO_LIMITS = [
    (429, "the request has been rejected because the tenant exceeded the request rate limit"),
    (503, "query timed out in expression evaluation"),
    (422, "rpc error: code = DeadlineExceeded desc = context deadline exceeded"),
    (400, 'parse error: llem_gpu_power_limit_watts{gpu=~"("}: error parsing regexp'),
    (401, "no org id"),
    (200, "limit"),
]


def test_messages_of_limits_are_recognised(subtests: pytest.Subtests) -> None:
    """Limits of Prometheus, Mimir, Cortex, Thanos and VictoriaMetrics split a query; other errors do not."""
    for status, text in LIMITS:
        for body in (text, json.dumps({"status": "error", "error": text})):
            with subtests.test(text=text), pytest.raises(TooMuchError, match=f"{status}: "):
                refuse_too_much(Answer(status, body.encode()))
    for status, text in NO_LIMITS:
        with subtests.test(text=text):
            refuse_too_much(Answer(status, text.encode()))


@pytest.mark.parametrize("remote_read", [True, False])
def test_a_limit_that_nothing_satisfies_is_an_error(remote_read: bool) -> None:
    """If the server refuses even one second, the error has its reason."""
    with StandIn(always(Reply(422, QUERY_LENGTH.encode()))) as server:
        source = PrometheusSource(Http(server.url), remote_read=remote_read)
        with pytest.raises(
            SourceError, match=r"cannot be read even in parts of 1 s: 422: the query time range exceeds"
        ):
            fetch(source, T0, T0 + DAY_MS)
        assert len(server.asked) < 30
