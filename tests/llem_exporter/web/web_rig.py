"""Exporters with a web config file, certificates for them, and clients that use those."""

import json
import os
import re
import signal
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bcrypt
import trustme
import urllib3

from tests.servers import Exporter, wait_until

Start = Callable[..., "WebExporter"]

REPLAY = ("--replay", "demo")


def hashed(password: str, cost: int = 4) -> str:
    """A bcrypt hash as htpasswd makes it."""
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode().replace("$2b$", "$2y$")


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file in one step, as careful programs do."""
    beside = path.with_name(f".{path.name}")
    beside.write_bytes(content if isinstance(content, bytes) else content.encode())
    beside.replace(path)


@dataclass
class WebFolder:
    """A folder with web.yml, a server's certificate and key, and the authority of clients."""

    folder: Path
    authority: trustme.CA = field(default_factory=trustme.CA)
    client_authority: trustme.CA = field(default_factory=trustme.CA)

    @property
    def file(self) -> Path:
        return self.folder / "web.yml"

    def write(self, **sections: object) -> Path:
        """Write web.yml, JSON being YAML."""
        write_whole(self.file, json.dumps(sections))
        return self.file

    def issue(self, *, key_first: bool = False) -> trustme.LeafCert:
        """A new certificate and key for the server, in cert.pem and key.pem."""
        leaf = self.authority.issue_cert("localhost", "127.0.0.1")
        parts = [("cert.pem", pem_of(leaf)), ("key.pem", leaf.private_key_pem.bytes())]
        for name, content in reversed(parts) if key_first else parts:
            write_whole(self.folder / name, content)
        return leaf

    def tls(self, **more: object) -> dict[str, object]:
        """tls_server_config with the server's files, which are there then."""
        if not (self.folder / "cert.pem").exists():
            self.issue()
        return {"cert_file": "cert.pem", "key_file": "key.pem", **more}

    def client_tls(self, kind: str = "RequireAndVerifyClientCert", **more: object) -> dict[str, object]:
        """The same, and clients must show a certificate of the authority of clients."""
        write_whole(self.folder / "ca.pem", self.client_authority.cert_pem.bytes())
        return self.tls(client_auth_type=kind, client_ca_file="ca.pem", **more)

    def client(self, *names: str, expired: bool = False, authority: trustme.CA | None = None) -> Path:
        """A client's certificate and key in one file; the names are its SANs."""
        until = datetime.now(UTC) + (-timedelta(hours=1) if expired else timedelta(days=1))
        leaf = (authority or self.client_authority).issue_cert(
            *(names or ("prometheus.example",)), not_after=until
        )
        path = self.folder / f"client-{len(list(self.folder.glob('client-*')))}.pem"
        path.write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
        return path


def pem_of(leaf: trustme.LeafCert) -> bytes:
    return b"".join(blob.bytes() for blob in leaf.cert_chain_pems)


def authorization(user: str, password: str) -> dict[str, str]:
    """The header of basic auth."""
    return urllib3.make_headers(basic_auth=f"{user}:{password}")


def client_context(
    authority: trustme.CA,
    client: Path | None = None,
    prepare: Callable[[ssl.SSLContext], object] | None = None,
) -> ssl.SSLContext:
    """What a client trusts and shows; `prepare` makes it an odd one."""
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    if client:
        context.load_cert_chain(client)
    if prepare:
        prepare(context)
    return context


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> ssl.SSLObject:
    """The client's end of a TLS connection in memory. Raises the ssl.SSLError of the end that refuses."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_end = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    unfinished = [client_end, server.wrap_bio(to_server, to_client, server_side=True)]
    while unfinished:
        for end in list(unfinished):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
                unfinished.remove(end)
    return client_end


class WebExporter(Exporter):
    """llem-exporter with a web config file; `context` is how its own client connects, None for plain HTTP."""

    def __init__(
        self,
        config: Path,
        *args: str,
        context: ssl.SSLContext | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(env=env, args=("--web.config.file", str(config), *(args or REPLAY)))
        self.context = context

    def _ready(self) -> bool:
        found = re.findall(r"listening on https?://127\.0\.0\.1:(\d+)", self.log())
        if len(found) < self._starts:
            return False
        self.port = self._listen_port = int(found[-1])
        return True

    def pool(
        self, context: ssl.SSLContext | None = None, source: str | None = None, size: int = 1
    ) -> urllib3.HTTPConnectionPool:
        """Connections that are kept; `source` is the address they come from."""
        more: dict[str, Any] = {"timeout": 30, "retries": False, "maxsize": size}
        if source:
            more["source_address"] = (source, 0)
        context = context or self.context
        if context is None:
            return urllib3.HTTPConnectionPool("127.0.0.1", self.port, **more)
        return urllib3.HTTPSConnectionPool("127.0.0.1", self.port, ssl_context=context, **more)

    def ask(
        self,
        path: str = "/metrics",
        headers: Mapping[str, str] | None = None,
        context: ssl.SSLContext | None = None,
        method: str = "GET",
    ) -> urllib3.BaseHTTPResponse:
        """One request on a connection of its own."""
        with self.pool(context) as pool:
            return pool.request(method, path, headers=dict(headers or {}))

    def read_again(self, change: Callable[[], object], logs: str = "reloaded") -> None:
        """Change a file, send SIGHUP, and wait until a line with these words is logged."""
        seen = len(self.log())
        change()
        os.kill(self.pid, signal.SIGHUP)
        wait_until(lambda: logs in self.log()[seen:], logs)

    def lines(self, word: str) -> list[str]:
        """The log's lines that have a word."""
        return [line for line in self.log().splitlines() if word in line]


class LimitedWebExporter(WebExporter):
    """An exporter with a web config file and 64 descriptors."""

    def _command(self) -> Sequence[str]:
        return ["bash", "-c", 'ulimit -n 64; exec "$0" "$@"', *super()._command()]
