"""The table of attacks in exporter/deploy/README.md: one test for each row. Scrapes are still served."""

import contextlib
import gzip
import itertools
import re
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme
import urllib3

from tests.bench.bench_exporter import PrefilledExporter
from tests.fake_nvml import FakeDriver
from tests.llem_exporter.conftest import StartExporter
from tests.llem_exporter.page import MetricsPage, history
from tests.llem_exporter.web.socket_rig import (
    connect,
    descriptors,
    drips,
    get,
    is_closed,
    memory_mb,
    sends,
    status_of,
)
from tests.llem_exporter.web.web_rig import WebExporter, WebFolder, authorization, client_context, hashed
from tests.servers import Exporter, wait_until

README = Path(__file__).parents[3] / "exporter" / "deploy" / "README.md"
PATHS = ("/", "/metrics", "/history?since=0", "/-/healthy", "/-/ready", "/none")
GOOD = authorization("ann", "right")
PAYLOAD = 'x"} 1\nllem_gpu_power_watts{gpu="9",uuid="GPU-9"} 1e9\n#\\'
"""In a label that is not escaped it would end the line, and begin a series of its own."""


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> WebFolder:
    return WebFolder(tmp_path_factory.mktemp("web"))


@pytest.fixture(scope="module")
def guarded(web: WebFolder) -> Iterator[WebExporter]:
    """An exporter with TLS and passwords; at the end it still answers, and has logged no error."""
    users = {"ann": hashed("right", 8), "bob": hashed("other", 8)}
    config = web.write(tls_server_config=web.tls(), basic_auth_users=users)
    with WebExporter(config, context=client_context(web.authority)) as exporter:
        wait_until(lambda: exporter.ask("/-/ready", GOOD).status == 200, "ready")
        yield exporter
        assert exporter.ask(headers=GOOD).status == 200
        assert not exporter.lines("ERROR") + exporter.lines("Traceback")


@pytest.fixture(scope="module")
def plain() -> Iterator[Exporter]:
    """An exporter without either; at the end it still answers, and has logged no error."""
    with Exporter(args=["--replay", "demo"]) as exporter:
        yield exporter
        assert exporter.fetch("/metrics").status == 200
        assert not re.search("ERROR|Traceback", exporter.log())


def ends(client: socket.socket) -> None:
    """Wait until the exporter has closed this connection."""
    wait_until(lambda: is_closed(client), "the connection's end")


def handshake_fails(exporter: WebExporter, context: ssl.SSLContext) -> None:
    """No byte of a page comes; with TLS 1.3 the client learns that when it reads."""
    with (  # noqa: PT012 - it may fail at each step
        pytest.raises((ssl.SSLError, ConnectionResetError)),
        socket.create_connection(("127.0.0.1", exporter.port), 5) as client,
        context.wrap_socket(client, server_hostname="localhost") as secure,
    ):
        secure.sendall(get("/metrics"))
        assert not secure.recv(1000)
        raise ConnectionResetError("closed without a byte")


def test_unauthenticated(guarded: WebExporter) -> None:
    """Without a password, every path returns 401. With it, every path returns its page."""
    for path in PATHS:
        answer = guarded.ask(path)
        assert (answer.status, answer.headers["WWW-Authenticate"][:14]) == (401, 'Basic realm="l')
        assert b"llem_" not in answer.data
        assert guarded.ask(path, GOOD).status == (404 if path == "/none" else 200)


def test_wrong_password(guarded: WebExporter) -> None:
    """A wrong password returns 401 every time, for existing and for unknown users."""
    for user in ("ann", "eve", "ann"):
        assert guarded.ask(headers=authorization(user, "wrong")).status == 401
    assert guarded.ask(headers=GOOD).status == 200


def test_password_flood(guarded: WebExporter) -> None:
    """25 clients that guess get 401 or 503. Known and new scrapers with the right password are served."""
    assert guarded.ask(headers=GOOD).status == 200
    stopped = threading.Event()

    def guess(client: int) -> set[int]:
        statuses = set[int]()
        for number in itertools.count():
            statuses.add(guarded.ask(headers=authorization("ann", f"{client}-{number}")).status)
            if stopped.is_set():
                break
        return statuses

    with ThreadPoolExecutor(25) as attackers, ExitStack() as stack:
        stack.callback(stopped.set)
        guesses = [attackers.submit(guess, client) for client in range(25)]
        elsewhere = stack.enter_context(guarded.pool(source="127.0.0.2"))
        for _ in range(10):
            assert guarded.ask(headers=GOOD).status == 200
        bob = authorization("bob", "other")
        wait_until(lambda: elsewhere.request("GET", "/metrics", headers=bob).status == 200, "bob")
    assert set().union(*(guess.result() for guess in guesses)) <= {401, 503}


def test_wrong_client_certificate(servers: ExitStack, tmp_path: Path) -> None:
    """The TLS handshake fails without a certificate, with another authority's, and with an expired one."""
    folder = WebFolder(tmp_path)
    config = folder.write(tls_server_config=folder.client_tls())
    right = client_context(folder.authority, folder.client())
    exporter = servers.enter_context(WebExporter(config, context=right))
    strangers = [trustme.CA(), folder.authority]
    wrong = [None, folder.client(expired=True), *(folder.client(authority=other) for other in strangers)]
    for client in wrong:
        handshake_fails(exporter, client_context(folder.authority, client))
    assert exporter.ask().status == 200
    assert not exporter.lines("Traceback")


def test_old_tls(guarded: WebExporter, web: WebFolder) -> None:
    """The handshake fails with TLS 1.0 and 1.1. It succeeds with TLS 1.2."""

    def old(version: ssl.TLSVersion) -> Callable[[ssl.SSLContext], None]:
        def prepare(context: ssl.SSLContext) -> None:
            context.set_ciphers("ALL:@SECLEVEL=0")
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
                context.minimum_version = context.maximum_version = version

        return prepare

    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        context = client_context(web.authority, prepare=old(version))
        handshake_fails(guarded, context)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        assert guarded.ask(headers=GOOD, context=context).status == 200


def test_plain_http_to_tls(guarded: WebExporter) -> None:
    """The connection is closed without an HTTP response."""
    with connect(guarded) as client:
        client.sendall(get("/metrics"))
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP" not in client.recv(4096)
        ends(client)


def test_path_traversal(plain: Exporter) -> None:
    """Path traversal returns 404 or 400. No path maps to a file."""
    for path in (
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
        "/metrics/../../etc/passwd",
        "/metrics%00.txt",
        "/./-/../secret",
        "/..%5cx",
        "/a%00",
        "/\\..\\..\\etc\\passwd",
        "http://elsewhere/etc/passwd",
    ):
        with connect(plain) as client:
            client.sendall(get(path, "Connection: close"))
            answer = client.recv(65_536)
        assert answer.split()[1] in (b"400", b"404"), path
        assert b"root:" not in answer


def test_oversize_header(plain: Exporter) -> None:
    """A header over 8 KiB returns 400.

    Over 32 KiB in total, the connection closes.
    """
    for request, status in (
        (get("/", f"X: {'x' * 9000}"), 400),
        (get(f"/{'x' * 9000}"), 400),
        (get("/", *(f"X-{number}: {'x' * 8000}" for number in range(10))), 0),
    ):
        with connect(plain) as client:
            client.sendall(request)
            assert status_of(client) == status
            ends(client)
    with connect(plain) as client:
        client.sendall(get("/", *(f"X-{number}: x" for number in range(60))))
        assert status_of(client) == 200
    with connect(plain) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        assert sends(client, b"X: " + b"x" * 1000 + b"\r\n", times=20_000) < 20_000


def test_gzip_bomb(plain: Exporter) -> None:
    """A body returns 413 without being read. A 1 MB gzip bomb for 1 GB uses no memory."""
    bomb = gzip.compress(bytes(1 << 20), 9, mtime=0) * 1024
    peak_mb = memory_mb(plain, "VmHWM")
    head = (
        f"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n"
    )
    with connect(plain) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(head.encode() + bomb)
        assert status_of(client) in (413, 0)
    with connect(plain) as client:
        client.sendall(head.encode())
        assert status_of(client) == 413
    assert memory_mb(plain, "VmHWM") - peak_mb < 200


def test_smuggled_request(plain: Exporter) -> None:
    """Two contradicting lengths return 400 or 413 and close the connection. No second request is read."""
    inner = get("/metrics")
    for lengths in (
        [f"Content-Length: {len(inner)}", "Transfer-Encoding: chunked"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Transfer-Encoding: xchunked"],
    ):
        with connect(plain) as client:
            client.sendall(get("/-/healthy", *lengths) + inner)
            assert status_of(client) in (400, 413)
            ends(client)


def test_slowloris(plain: Exporter) -> None:
    """A connection without a complete request is closed after 10 s.

    This includes clients that send byte by byte and clients with earlier requests. A persistent connection
    with complete requests stays open, and scrapes are served meanwhile.
    """
    names = ("silent", "half", "drip", "kept, drip", "kept, half at once", "kept", "kept, in parts")
    with ExitStack() as stack:
        started_s = time.monotonic()
        clients = {name: stack.enter_context(connect(plain)) for name in names}
        for name in names[3:6]:
            also = b"GET /metrics HTTP/1.1\r\nHost: " if "at once" in name else b""
            clients[name].sendall(get("/-/healthy") + also)
            assert status_of(clients[name]) == 200
        for byte in get("/-/healthy"):
            clients["kept, in parts"].sendall(bytes([byte]))
        assert status_of(clients["kept, in parts"]) == 200
        for name in ("half", "drip", "kept, drip"):
            clients[name].sendall(b"GET /metrics HTTP/1.1\r\nHost: ")
        dripping = [clients["drip"], clients["kept, drip"]]
        while sum(map(drips, dripping)):
            assert plain.fetch("/metrics").status == 200
            time.sleep(0.2)
            elapsed_s = time.monotonic() - started_s
            assert elapsed_s < 60
            if elapsed_s < 9:
                assert not any(is_closed(client) for client in clients.values())
        closed = [clients[name] for name in names[:5]]
        wait_until(lambda: all(map(is_closed, closed)), "the connections' end", 30)
        for name in names[5:]:
            clients[name].sendall(get("/-/healthy"))
            assert status_of(clients[name]) == 200


def test_500_idle_connections(plain: Exporter) -> None:
    """Beyond 256 connections, the longest idle ones are closed, and scrapes are served."""
    before = descriptors(plain)
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(plain)) for _ in range(500)]
        for _ in range(5):
            assert plain.fetch("/metrics").status == 200
            assert descriptors(plain) - before < 300
        wait_until(lambda: sum(map(is_closed, clients)) >= 244, "the idlest closed")


def test_idle_tls_handshake(guarded: WebExporter) -> None:
    """An unfinished TLS handshake is closed after 5 s. Meanwhile scrapes are served."""
    started_s = time.monotonic()
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(guarded)) for _ in range(500)]
        for client in clients[::2]:
            with contextlib.suppress(ConnectionError):
                client.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        for _ in range(5):
            assert guarded.ask(headers=GOOD).status == 200
        wait_until(lambda: all(map(is_closed, clients)), "all closed")
        assert time.monotonic() - started_s > 4.9


def test_slow_reader(servers: ExitStack, tmp_path: Path) -> None:
    """A slow reader is reset after its own scrape timeout, and its descriptor is freed. Scrapes continue."""
    driver = servers.enter_context(FakeDriver(tmp_path, gpus=8))
    args = ("--no-collector.zeus", "--no-collector.codecarbon")
    exporter = servers.enter_context(PrefilledExporter(env=driver.env, args=args))
    wait_until(lambda: exporter.fetch("/-/ready").status == 200, "ready")
    before = descriptors(exporter)
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(exporter, 4096)) for _ in range(8)]
        started_s = time.monotonic()
        for client in clients:
            client.sendall(get("/history?since=0", "X-Prometheus-Scrape-Timeout-Seconds: 3"))
            assert client.recv(12) == b"HTTP/1.1 200"
        assert exporter.fetch("/metrics").status == 200
        wait_until(lambda: descriptors(exporter) <= before, "all cut")
        assert time.monotonic() - started_s > 2.9
        for client in clients:
            ends(client)
    assert not re.search("ERROR|Traceback", exporter.log())


def test_scraper_id_flood(start: StartExporter) -> None:
    """More than 32 IDs return 429, malformed ones 400. A known scraper continues at its position."""
    exporter = start("--replay", "demo")
    wait_until(lambda: history(exporter), "samples")
    with urllib3.HTTPConnectionPool("127.0.0.1", exporter.port, maxsize=1) as known:

        def new_ms() -> list[int]:
            page = known.request("GET", "/history?scraper=good").data.decode()
            return [int(ms) for ms in re.findall(r"^llem_gpu_power_trace_watts.* (\d+)$", page, re.MULTILINE)]

        first_ms = new_ms()
        statuses = [exporter.fetch(f"/history?scraper=flood-{number}").status for number in range(100)]
        assert statuses == [200] * 31 + [429] * 69
        for name in ("", "x" * 129, "%00", "%0a", "a%1b[31m"):
            assert exporter.fetch(f"/history?scraper={name}").status == 400
        assert min(wait_until(new_ms, "samples since the first scrape")) > max(first_ms)
    assert MetricsPage(exporter.metrics()).value("llem_history_scrapers") == 32
    assert "flood-99" not in exporter.log()


def test_stolen_scraper_id(plain: Exporter) -> None:
    """An ID from another address returns 409. The owner of the ID is still served."""
    assert plain.fetch("/history?scraper=good").status == 200
    with urllib3.HTTPConnectionPool(
        "127.0.0.1", plain.port, source_address=("127.0.0.2", 0), retries=False
    ) as thief:
        assert thief.request("GET", "/history?scraper=good").status == 409
    assert plain.fetch("/history?scraper=good").status == 200


def test_garbage(plain: Exporter, guarded: WebExporter) -> None:
    """Random bytes return 400 or close the connection, with and without TLS."""
    for exporter in (plain, guarded):
        for noise in (
            b"\0" * 100,
            b"\x16\x03\x01" + b"\xff" * 600,
            b"\r\n" * 2000,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ):
            with connect(exporter) as client:
                with contextlib.suppress(ConnectionError):
                    client.sendall(noise)
                    client.shutdown(socket.SHUT_WR)
                assert status_of(client) in (400, 0) or exporter is guarded
                ends(client)


def names_of(page: MetricsPage) -> set[str]:
    return {labels["name"] for labels in page.labels("llem_gpu_info")}


def test_label_injection_by_a_gpu_name(start: StartExporter, driver: FakeDriver) -> None:
    """GPU names are escaped in both formats and on /history. Invalid text is replaced. No series is added."""
    driver.gpus[0].name = PAYLOAD
    driver.gpus[1].state.name = b'H100 \xff\xfe"\\'
    exporter = start("--no-collector.codecarbon", "--no-collector.zeus", driver=driver)
    page = MetricsPage(exporter.metrics())
    assert {PAYLOAD, 'H100 \ufffd\ufffd"\\'} <= names_of(page)
    assert page.get("llem_gpu_power_watts", gpu="9") is None
    assert len(page.labels("llem_gpu_info")) == len(driver.gpus)
    openmetrics = {"Accept": "application/openmetrics-text;version=1.0.0"}
    for path in ("/metrics", "/history?since=0"):
        text = exporter.fetch(path, headers=openmetrics).data.decode()
        assert not [line for line in text.split("\n") if line.startswith('llem_gpu_power_watts{gpu="9"')]
        assert "GPU-9" in text


def test_label_injection_by_a_job_file(start: StartExporter, driver: FakeDriver, tmp_path: Path) -> None:
    """Job values are escaped and end at a newline. Links, long values and invalid text are rejected."""
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    uuids = [gpu.uuid for gpu in driver.gpus]
    (jobs / uuids[0]).write_text(f"job_id={PAYLOAD}\nuser=ann\n")
    (jobs / f"{uuids[0]}.2").write_text('job_id=a",user="root"} 1\nuser=\\\n')
    secret = tmp_path / "secret"
    secret.write_text("job_id=secret\n")
    (jobs / uuids[1]).symlink_to(secret)
    (jobs / f"{uuids[1]}.2").write_bytes(b"job_id=\xff\n")
    (jobs / f"{uuids[1]}.3").write_text(f"job_id={'x' * 20_000}\n")
    (jobs / f"{uuids[1]}\n{PAYLOAD.replace('/', '')}").write_text("job_id=name\n")
    exporter = start(
        "--no-collector.codecarbon", "--no-collector.zeus", "--jobs.dir", str(jobs), driver=driver
    )

    def of_jobs() -> list[dict[str, str]]:
        return [dict(labels) for labels in MetricsPage(exporter.metrics()).labels("llem_gpu_job_info")]

    shown = wait_until(of_jobs, "jobs")
    assert {one["job_id"] for one in shown} <= {'x"} 1', 'a",user="root"} 1'}
    assert 'a",user="root"} 1' in {one["job_id"] for one in shown}
    assert {one["user"] for one in shown} <= {"ann", "\\"}
    assert {one["uuid"] for one in shown} == {uuids[0]}
    page = MetricsPage(exporter.metrics())
    assert page.get("llem_gpu_power_watts", gpu="9") is None
    assert not re.search("Traceback|job_id=secret", exporter.log())


def test_every_row_of_the_table_is_a_test_and_every_test_a_row() -> None:
    """The last column of the table of attacks names the test."""
    section = README.read_text().partition("## Resistance to attacks\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[-2].strip() for line in section.splitlines() if line.startswith("|")]
    tests = {name for name in globals() if name.startswith("test_")}
    tests -= {"test_every_row_of_the_table_is_a_test_and_every_test_a_row"}
    assert sorted(rows[2:]) == sorted(f"`{name.removeprefix('test_')}`" for name in tests)
