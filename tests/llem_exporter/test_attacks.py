"""The attack table of exporter/deploy/README.md, one test a row: what each gets, and that scrapes go on."""

import contextlib
import gzip
import re
import socket
import ssl
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme
import urllib3

from tests.bench.bench_exporter import PrefilledExporter, pss_mb
from tests.fake_nvml import FakeDriver
from tests.llem_exporter.conftest import StartExporter
from tests.llem_exporter.page import MetricsPage
from tests.llem_exporter.socket_rig import connect, get, is_closed, sends, status_of
from tests.llem_exporter.web_rig import WebExporter, WebFolder, authorization, client_context, hashed
from tests.servers import Exporter, wait_until

README = Path(__file__).parents[2] / "exporter" / "deploy" / "README.md"
PATHS = ("/", "/metrics", "/history?since=0", "/-/healthy", "/-/ready", "/none")
GOOD = authorization("ann", "right")
PAYLOAD = 'x"} 1\nllem_gpu_power_watts{gpu="9",uuid="GPU-9"} 1e9\n#\\'
"""In a label that is not escaped it would end the line, and begin a series of its own."""


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> WebFolder:
    return WebFolder(tmp_path_factory.mktemp("web"))


@pytest.fixture(scope="module")
def guarded(web: WebFolder) -> Iterator[WebExporter]:
    """TLS and a password; at the end it still answers, and has logged no error."""
    config = web.write(tls_server_config=web.tls(), basic_auth_users={"ann": hashed("right", 8)})
    with WebExporter(config, context=client_context(web.authority)) as exporter:
        yield exporter
        assert exporter.ask(headers=GOOD).status == 200
        assert not exporter.lines("ERROR") + exporter.lines("Traceback")


@pytest.fixture(scope="module")
def plain() -> Iterator[Exporter]:
    """Neither; at the end it still answers, and has logged no error."""
    with Exporter(args=["--replay", "demo"]) as exporter:
        yield exporter
        assert exporter.fetch("/metrics").status == 200
        assert not re.search("ERROR|Traceback", exporter.log())


def slowest_s(scrape: Callable[[], urllib3.BaseHTTPResponse], seconds: float) -> float:
    """The longest that a scrape took of those that came, four a second, for so long; each must succeed."""
    times_s = []
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        began_s = time.monotonic()
        assert scrape().status == 200
        times_s.append(time.monotonic() - began_s)
        time.sleep(0.25)
    return max(times_s)


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
    """401 on every path there is and every one there is not, with no page in the answer."""
    for path in PATHS:
        answer = guarded.ask(path)
        assert (answer.status, answer.headers["WWW-Authenticate"][:5]) == (401, "Basic")
        assert b"llem_" not in answer.data


def test_wrong_password(guarded: WebExporter) -> None:
    """401, for a user that exists and for one that does not, again and again."""
    for user in ("ann", "bob", "ann"):
        assert guarded.ask(headers=authorization(user, "wrong")).status == 401
    assert guarded.ask(headers=GOOD).status == 200


def test_password_flood(guarded: WebExporter) -> None:
    """401 or 503 for each of a hundred, at a fifth of a core; who knows the password is answered."""
    assert guarded.ask(headers=GOOD).status == 200
    began_s, cpu_s = time.monotonic(), guarded.cpu_seconds()

    def guess(number: int) -> int:
        return guarded.ask(headers=authorization("ann", f"guess {number}")).status

    with ThreadPoolExecutor(25) as attackers:
        guesses = attackers.map(guess, range(100))
        assert slowest_s(lambda: guarded.ask(headers=GOOD), 3.0) < 2.0
        assert set(guesses) <= {401, 503}
    used_s, took_s = guarded.cpu_seconds() - cpu_s, time.monotonic() - began_s
    assert used_s < 0.2 * took_s + 2.0  # beside the hashes: 120 TLS handshakes, and the exporter's own work


def test_wrong_client_certificate(servers: ExitStack, tmp_path: Path) -> None:
    """The handshake fails, with none, one of another authority, and one that has expired."""
    folder = WebFolder(tmp_path)
    config = folder.write(tls_server_config=folder.client_tls())
    right = client_context(folder.authority, folder.client())
    exporter = servers.enter_context(WebExporter(config, context=right))
    stranger = trustme.CA()
    for client in (None, folder.client(authority=stranger), folder.client(expired=True)):
        handshake_fails(exporter, client_context(folder.authority, client))
    assert exporter.ask().status == 200
    assert not exporter.lines("Traceback")


def test_old_tls(guarded: WebExporter, web: WebFolder) -> None:
    """The handshake fails with TLS 1.0 and 1.1; the same client is welcome with 1.2."""

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
    """Closed, without a byte of HTTP."""
    with connect(guarded) as client:
        client.sendall(get("/metrics"))
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP" not in client.recv(4096)
        wait_until(lambda: is_closed(client), "closed", 5)


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/metrics/../../etc/passwd",
        "/..%5cx",
        "/a%00",
    ],
)
def test_path_traversal(plain: Exporter, path: str) -> None:
    """404: no path is a file's."""
    with connect(plain) as client:
        client.sendall(get(path, "Connection: close"))
        answer = client.recv(65_536)
    assert answer.split()[1] == b"404"
    assert b"root:" not in answer


def test_oversize_header(plain: Exporter) -> None:
    """400 or 431 for one of over 8 KB, a long target, many headers; closed where they never end."""
    big = f"X: {'x' * 9000}"
    for request in (get("/", big), get(f"/{'x' * 9000}"), get("/", *["X: x"] * 1000)):
        with connect(plain) as client:
            client.sendall(request)
            assert status_of(client) in (400, 431, 0)
            wait_until(lambda client=client: is_closed(client), "closed", 5)  # type: ignore[misc]
    before_mb = pss_mb(plain.pid)
    with connect(plain) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        assert sends(client, b"X: " + b"x" * 1000 + b"\r\n", times=20_000) < 20_000
    assert pss_mb(plain.pid) - before_mb < 5


def test_gzip_bomb(plain: Exporter) -> None:
    """413, unread: 1 MB that would be 1 GB costs no memory."""
    bomb = gzip.compress(bytes(1 << 30), 9, mtime=0)
    before_mb = pss_mb(plain.pid)
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
    assert pss_mb(plain.pid) - before_mb < 10


def test_smuggled_request(plain: Exporter) -> None:
    """400 or 413, and closed: what follows two contradicting lengths is no request."""
    inner = get("/metrics")
    for lengths in (
        [f"Content-Length: {len(inner)}", "Transfer-Encoding: chunked"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Transfer-Encoding: xchunked"],
    ):
        with connect(plain) as client:
            client.sendall(get("/-/healthy", *lengths) + inner)
            assert status_of(client) in (400, 413)
            wait_until(lambda client=client: is_closed(client), "closed", 5)  # type: ignore[misc]


def test_slowloris(plain: Exporter) -> None:
    """Closed after 10 s, however little by little a request comes; scrapes are answered meanwhile."""
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(plain)) for _ in range(20)]
        began_s = time.monotonic()
        for client in clients:
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: ")
        while not all(is_closed(client) for client in clients):
            for client in clients:
                with contextlib.suppress(ConnectionError):
                    client.sendall(b"X")
            assert slowest_s(lambda: plain.fetch("/metrics"), 0.3) < 2
            assert time.monotonic() - began_s < 20
        assert time.monotonic() - began_s > 8


def test_500_idle_connections(plain: Exporter) -> None:
    """Those beyond 256 push out the idlest; all are closed after 10 s; scrapes are answered meanwhile."""
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(plain)) for _ in range(500)]
        assert slowest_s(lambda: plain.fetch("/metrics"), 2.0) < 2.0
        assert sum(map(is_closed, clients)) >= 244
        wait_until(lambda: all(map(is_closed, clients)), "all closed", 20)


def test_idle_tls_handshake(guarded: WebExporter) -> None:
    """Closed after 5 s, before or in the middle of it; 500 cost at most 60 MB; scrapes are answered."""
    before_mb = pss_mb(guarded.pid)
    for _ in range(3):
        with ExitStack() as stack:
            clients = [stack.enter_context(connect(guarded)) for _ in range(500)]
            for client in clients[::2]:
                with contextlib.suppress(ConnectionError):
                    client.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
            assert slowest_s(lambda: guarded.ask(headers=GOOD), 1.0) < 3.0
            wait_until(lambda clients=clients: all(map(is_closed, clients)), "all closed", 20)  # type: ignore[misc]
    assert pss_mb(guarded.pid) - before_mb < 60


def test_slow_reader(servers: ExitStack, tmp_path: Path) -> None:
    """Cut when its own scrape timeout is over, what was kept for it is freed; scrapes are answered."""
    driver = servers.enter_context(FakeDriver(tmp_path, gpus=8))
    args = ("--no-collector.zeus", "--no-collector.codecarbon")
    exporter = servers.enter_context(PrefilledExporter(env=driver.env, args=args))
    wait_until(lambda: exporter.fetch("/-/ready").status == 200, "ready")
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(exporter, 4096)) for _ in range(8)]
        for client in clients:
            client.sendall(get("/history?since=0", "X-Prometheus-Scrape-Timeout-Seconds: 3"))
            assert client.recv(12) == b"HTTP/1.1 200"
        held = descriptors(exporter)
        assert slowest_s(lambda: exporter.fetch("/metrics"), 2.0) < 2.0
        wait_until(lambda: descriptors(exporter) <= held - len(clients), "all cut", 15)
    assert "Traceback" not in exporter.log()


def test_scraper_id_flood(servers: ExitStack) -> None:
    """429 beyond 32 IDs; those that are known go on."""
    exporter = servers.enter_context(Exporter(args=["--replay", "demo"]))
    assert exporter.fetch("/history?scraper=good").status == 200
    statuses = [exporter.fetch(f"/history?scraper=flood-{number}").status for number in range(100)]
    assert statuses == [200] * 31 + [429] * 69
    assert exporter.fetch("/history?scraper=good").status == 200
    assert MetricsPage(exporter.metrics()).value("llem_history_scrapers") == 32


def test_stolen_scraper_id(servers: ExitStack) -> None:
    """409 for another address; its owner loses no sample."""
    exporter = servers.enter_context(Exporter(args=["--replay", "demo"]))
    assert exporter.fetch("/history?scraper=good").status == 200
    with urllib3.HTTPConnectionPool(
        "127.0.0.1", exporter.port, source_address=("127.0.0.2", 0), retries=False
    ) as thief:
        assert thief.request("GET", "/history?scraper=good").status == 409
    assert exporter.fetch("/history?scraper=good").status == 200


def test_garbage(plain: Exporter, guarded: WebExporter) -> None:
    """400 or closed, with TLS and without."""
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
                wait_until(lambda client=client: is_closed(client), "closed", 12)  # type: ignore[misc]


def test_markup_in_the_host_header(plain: Exporter) -> None:
    """Escaped on the landing page."""
    page = plain.fetch("/", headers={"Host": "<script>alert(1)</script>"}).data
    assert b"<script>" not in page
    assert b"&lt;script&gt;" in page


def descriptors(exporter: Exporter) -> int:
    return len(list(Path(f"/proc/{exporter.pid}/fd").iterdir()))


def names_of(page: MetricsPage) -> set[str]:
    return {labels["name"] for labels in page.labels("llem_gpu_info")}


def test_label_injection_by_a_gpu_name(start: StartExporter, driver: FakeDriver) -> None:
    """Escaped, in both formats and on /history; what is no text is replaced. No other series comes of it."""
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
    """Escaped; a line's end ends the value; links and what is too long or no text are refused."""
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    uuids = [gpu.uuid for gpu in driver.gpus]
    (jobs / uuids[0]).write_text(f"job={PAYLOAD}\nuser=ann\n")
    (jobs / f"{uuids[0]}.2").write_text('job=a",user="root"} 1\nuser=\\\n')
    secret = tmp_path / "secret"
    secret.write_text("job=secret\n")
    (jobs / uuids[1]).symlink_to(secret)
    (jobs / f"{uuids[1]}.2").write_bytes(b"job=\xff\n")
    (jobs / f"{uuids[1]}.3").write_text(f"job={'x' * 20_000}\n")
    (jobs / f"{uuids[1]}\n{PAYLOAD.replace('/', '')}").write_text("job=name\n")
    exporter = start(
        "--no-collector.codecarbon", "--no-collector.zeus", "--jobs.dir", str(jobs), driver=driver
    )

    def of_jobs() -> list[dict[str, str]]:
        return [dict(labels) for labels in MetricsPage(exporter.metrics()).labels("llem_gpu_job_info")]

    shown = wait_until(of_jobs, "jobs")
    assert {one["job"] for one in shown} <= {'x"} 1', 'a",user="root"} 1'}
    assert 'a",user="root"} 1' in {one["job"] for one in shown}
    assert {one["user"] for one in shown} <= {"ann", "\\"}
    assert {one["uuid"] for one in shown} == {uuids[0]}
    page = MetricsPage(exporter.metrics())
    assert page.get("llem_gpu_power_watts", gpu="9") is None
    assert not re.search("Traceback|job=secret", exporter.log())


def test_every_row_of_the_table_is_a_test_and_every_test_a_row() -> None:
    """The last column names it."""
    section = README.read_text().partition("## What attacks get\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[-2].strip() for line in section.splitlines() if line.startswith("|")]
    tests = {name for name in globals() if name.startswith("test_")}
    tests -= {"test_every_row_of_the_table_is_a_test_and_every_test_a_row"}
    assert sorted(rows[2:]) == sorted(f"`{name.removeprefix('test_')}`" for name in tests)
