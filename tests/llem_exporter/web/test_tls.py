"""TLS and client certificates, by the process and by real clients."""

import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme
import urllib3

from llem_exporter.web.reload import LiveWebConfig
from tests.llem_exporter.web.web_rig import (
    REPLAY,
    WebExporter,
    WebFolder,
    authorization,
    client_context,
    handshake,
    hashed,
    pem_of,
    write_whole,
)
from tests.servers import Prometheus, PrometheusRelease, scrape_config, wait_until


@pytest.fixture
def web(tmp_path: Path) -> WebFolder:
    return WebFolder(tmp_path)


@pytest.fixture
def serve(web: WebFolder, servers: ExitStack) -> Callable[..., WebExporter]:
    """Start an exporter with these sections in its web config file; its client trusts the server."""

    def start(*args: str, client: Path | None = None, **sections: object) -> WebExporter:
        context = client_context(web.authority, client)
        return servers.enter_context(WebExporter(web.write(**sections), *args, context=context))

    return start


Serve = Callable[..., WebExporter]


def refused(exporter: WebExporter, context: ssl.SSLContext) -> str:
    """Why a client gets no answer."""
    with pytest.raises((urllib3.exceptions.SSLError, urllib3.exceptions.ProtocolError)) as error:
        exporter.ask(context=context)
    return str(error.value)


def loaded(config: Path) -> ssl.SSLContext:
    """The context that an exporter with this web config file serves with."""
    context = LiveWebConfig(config).ssl_context
    assert context is not None
    return context


def agreed(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[str | None, str]:
    """Protocol and cipher suite of a connection."""
    end = handshake(server, client)
    cipher = end.cipher()
    assert cipher is not None
    return end.version(), cipher[0]


def serial_of(exporter: WebExporter, context: ssl.SSLContext) -> str:
    """The serial number of the certificate that a new connection is shown."""
    with (
        socket.create_connection(("127.0.0.1", exporter.port), 30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        certificate = secure.getpeercert()
        assert certificate is not None
        return str(certificate["serialNumber"])


def test_pages_come_over_tls(web: WebFolder, serve: Serve) -> None:
    """Every page is served over TLS 1.3 and HTTP/1.1 with a verified certificate.

    The log has an https URL.
    """
    exporter = serve(tls_server_config=web.tls(), http_server_config={"http2": "true"})
    assert exporter.context is not None
    exporter.context.minimum_version = ssl.TLSVersion.TLSv1_3
    wait_until(lambda: exporter.ask("/-/ready").status == 200, "ready")
    for path in ("/", "/metrics", "/history?since=0", "/-/healthy"):
        assert exporter.ask(path).status == 200
    exporter.context.set_alpn_protocols(["h2", "http/1.1"])
    assert exporter.ask().status == 200
    assert exporter.lines(f"listening on https://127.0.0.1:{exporter.port}")


def only(version: ssl.TLSVersion) -> Callable[[ssl.SSLContext], None]:
    def prepare(context: ssl.SSLContext) -> None:
        context.minimum_version = context.maximum_version = version

    return prepare


def test_the_lowest_version_is_that_of_the_file(web: WebFolder) -> None:
    """With min_version TLS13, a handshake with TLS 1.2 fails."""
    server = loaded(web.write(tls_server_config=web.tls(min_version="TLS13")))
    handshake(server, client_context(web.authority, prepare=only(ssl.TLSVersion.TLSv1_3)))
    with pytest.raises(ssl.SSLError):
        handshake(server, client_context(web.authority, prepare=only(ssl.TLSVersion.TLSv1_2)))


def test_a_client_must_have_an_allowed_name(web: WebFolder, serve: Serve) -> None:
    """A DNS name, IPv4 address or mail address must match exactly.

    Other clients get 403 and are disconnected.
    """
    allowed = ["prom.example", "127.0.0.9", "prom@mail.example", "xn--bcher-kva.example"]
    exporter = serve(tls_server_config=web.client_tls(client_allowed_sans=["x.example", *allowed]))

    def answer_to(name: str) -> urllib3.BaseHTTPResponse:
        return exporter.ask(context=client_context(web.authority, web.client(name, "y.example")))

    assert {name: answer_to(name).status for name in allowed} == dict.fromkeys(allowed, 200)
    for name in ("other.example", "aprom.example", "127.0.0.90", "::2", "aprom@mail.example", "*.example"):
        answer = answer_to(name)
        assert (answer.status, answer.headers.get("Connection")) == (403, "close"), name
        assert b"llem_" not in answer.data


def test_paths_are_relative_to_the_config_file(web: WebFolder) -> None:
    """Relative paths are relative to the config file, not to the working directory."""
    config = web.write(tls_server_config=web.tls(key_file=str(web.folder / "key.pem")))
    assert Path.cwd() != web.folder
    handshake(loaded(config), client_context(web.authority))


def test_what_openssl_refuses_is_an_error_of_ours(web: WebFolder) -> None:
    """An OpenSSL failure is a ConfigError, for example if FIPS is configured without its provider."""
    settings = web.folder / "openssl.cnf"
    settings.write_text("openssl_conf=a\n[a]\nalg_section=b\n[b]\ndefault_properties=fips=yes\n")
    code = """
import pathlib, sys
from llem_core.errors import ConfigError
from llem_exporter.web import config, tls

path = pathlib.Path(sys.argv[1])
tls_config = config.parse(path.read_bytes(), path.parent).tls
try:
    tls.new_context(tls_config)
except ConfigError as exc:
    print(exc)
"""
    printed = subprocess.run(
        [sys.executable, "-c", code, str(web.write(tls_server_config=web.tls()))],
        env={**os.environ, "OPENSSL_CONF": str(settings)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout
    assert printed == "tls_server_config: OpenSSL: library has no ciphers\n"


def test_a_wrong_file_stops_the_start(web: WebFolder) -> None:
    """The error is one line with the file, the key and the reason. The exit status is 1."""
    config = web.write(tls_server_config=web.tls(key_file="none.pem"))
    done = subprocess.run(
        [sys.executable, "-m", "llem_exporter", *REPLAY, "--web.config.file", str(config)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: --web.config.file {config}: tls_server_config: 'none.pem': cannot be read: "
        "No such file or directory\n"
    )


class Scrapers:
    """Threads that scrape all the time; each failure is kept."""

    def __init__(self, exporter: WebExporter, context: ssl.SSLContext) -> None:
        self.failures: list[str] = []
        self.scrapes = 0
        self._stopped = threading.Event()
        self._exporter, self._context = exporter, context
        # One keeps its connection, and one comes anew each time.
        self._threads = [threading.Thread(target=self._run, args=(kept,)) for kept in (True, False)]

    def _run(self, kept: bool) -> None:
        with self._exporter.pool(self._context) as pool:
            while not self._stopped.wait(0.02):
                try:
                    answer = (
                        pool.request("GET", "/metrics") if kept else self._exporter.ask(context=self._context)
                    )
                    if answer.status != 200 or b"llem_gpu_samples_total{" not in answer.data:
                        self.failures.append(str(answer.status))
                except urllib3.exceptions.HTTPError as error:
                    self.failures.append(repr(error))
                self.scrapes += 1
            if kept and pool.num_connections != 1:
                self.failures.append(f"{pool.num_connections} connections were needed")

    def __enter__(self) -> "Scrapers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(60)


def test_a_renewed_certificate_fails_no_scrape(web: WebFolder, serve: Serve) -> None:
    """During two renewals, new connections get the new certificate and old connections stay open."""
    exporter = serve(tls_server_config=web.client_tls(), client=web.client())
    assert exporter.context is not None
    context, seen = exporter.context, {serial_of(exporter, exporter.context)}
    with Scrapers(exporter, context) as scrapers:
        for key_first in (False, True):
            web.issue(key_first=key_first)
            wait_until(lambda: serial_of(exporter, context) not in seen, "the new certificate")
            seen.add(serial_of(exporter, context))
    assert scrapers.failures == []
    assert scrapers.scrapes > 2
    assert len(exporter.lines("reloaded")) == 2


def test_half_a_renewed_pair_keeps_the_old_one(web: WebFolder, caplog: pytest.LogCaptureFixture) -> None:
    """With a new certificate and the old key, the old pair is used, and one error is logged.

    With the new key, the new pair is used, and one line is logged.
    """
    caplog.set_level(logging.INFO)
    config, client = LiveWebConfig(web.write(tls_server_config=web.tls())), client_context(web.authority)

    def serial() -> object:
        assert config.ssl_context is not None
        return (handshake(config.ssl_context, client).getpeercert() or {})["serialNumber"]

    old, new = serial(), web.authority.issue_cert("localhost", "127.0.0.1")
    write_whole(web.folder / "cert.pem", pem_of(new))
    assert [config.reload_if_changed() for _ in range(12)] == [False] * 12
    assert serial() == old
    write_whole(web.folder / "key.pem", new.private_key_pem.bytes())
    assert [config.reload_if_changed() for _ in range(12)] == [False] * 12
    assert serial() != old
    mismatch, good = caplog.messages
    assert "key values mismatch; the previous configuration stays in effect" in mismatch
    assert good.endswith("reloaded, now valid")


def test_new_authorities_end_open_connections(web: WebFolder, serve: Serve) -> None:
    """After a change of authorities, open connections are closed. New ones need a new certificate."""
    exporter = serve(tls_server_config=web.client_tls(), client=web.client())
    with exporter.pool() as pool:
        assert pool.request("GET", "/metrics").status == 200
        web.client_authority = trustme.CA()
        exporter.read_again(web.client_tls)
        with pytest.raises((urllib3.exceptions.SSLError, urllib3.exceptions.ProtocolError)):
            pool.request("GET", "/metrics")
    assert refused(exporter, exporter.context or client_context(web.authority))
    assert exporter.ask(context=client_context(web.authority, web.client())).status == 200


def test_a_server_can_be_given_tls_while_it_runs(web: WebFolder, servers: ExitStack) -> None:
    """Then plain HTTP gets no page, also on existing connections."""
    exporter = servers.enter_context(WebExporter(web.write()))
    with exporter.pool() as pool:
        assert pool.request("GET", "/metrics").status == 200
        exporter.read_again(lambda: web.write(tls_server_config=web.tls()))
        with pytest.raises(urllib3.exceptions.ProtocolError):
            pool.request("GET", "/metrics")
    exporter.context = client_context(web.authority)
    assert exporter.ask().status == 200


@pytest.fixture
def scraped(
    web: WebFolder,
    servers: ExitStack,
    tmp_path_factory: pytest.TempPathFactory,
    prometheus_release: PrometheusRelease,
) -> Iterator[Prometheus]:
    """A Prometheus that scrapes both pages over TLS, with a password and a client certificate."""
    config = web.write(
        tls_server_config=web.client_tls(client_allowed_sans=["prom.example"]),
        basic_auth_users={"prom": hashed("secret", 10)},
    )
    client = web.client("prom.example")
    exporter = servers.enter_context(WebExporter(config, context=client_context(web.authority, client)))
    authority = web.folder / "server-ca.pem"
    authority.write_bytes(web.authority.cert_pem.bytes())
    how: dict[str, Any] = {
        "scheme": "https",
        "basic_auth": {"username": "prom", "password": "secret"},
        "tls_config": {"ca_file": str(authority), "cert_file": str(client), "key_file": str(client)},
    }
    jobs = [
        scrape_config("llem", exporter, **how),
        scrape_config("history", exporter, path="/history", params={"scraper": ["p"]}, **how),
        scrape_config(
            "no-password", exporter, **{**how, "basic_auth": {"username": "prom", "password": "wrong"}}
        ),
        scrape_config("no-certificate", exporter, **{**how, "tls_config": {"ca_file": str(authority)}}),
    ]
    folder = tmp_path_factory.mktemp("prometheus")
    with Prometheus(folder, jobs, release=prometheus_release) as prometheus:
        yield prometheus
    assert exporter.ask(headers=authorization("prom", "secret")).status == 200
    assert exporter.ask().status == 401


@pytest.mark.full
def test_prometheus_scrapes_over_tls_with_certificate_and_password(scraped: Prometheus) -> None:
    """Prometheus scrapes both pages. Jobs without the certificate or the password are down."""
    scraped.wait_for('count_over_time(up{job="llem"}[1m]) >= 5')
    scraped.wait_for('count_over_time(llem_gpu_power_trace_watts{gpu="0"}[1m]) >= 30')
    for job in ("llem", "history"):
        assert scraped.value(f'min_over_time(up{{job="{job}"}}[1m])') == 1
    for job in ("no-password", "no-certificate"):
        assert scraped.value(f'max_over_time(up{{job="{job}"}}[1m])') == 0
