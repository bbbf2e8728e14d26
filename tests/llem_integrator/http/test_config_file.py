"""How a store is reached: promtool's file and the options, on a real Prometheus with TLS and passwords."""

import json
import os
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from llem_core.errors import ConfigError, SourceError
from llem_integrator.http.access import HttpConfig, Tls, http_config
from llem_integrator.http.client import Http
from llem_integrator.http.config_file import read_config
from llem_integrator.stores import open_source
from llem_integrator.stores.prometheus import PrometheusSource
from tests.llem_exporter.web.web_rig import WebFolder, hashed
from tests.llem_integrator.stand_ins import Reply, StandIn
from tests.llem_integrator.traces import T0, fetch, trace_text
from tests.servers import Prometheus, PrometheusRelease

USER, PASSWORD = "ann", "s3cret words"


class SecurePrometheus(Prometheus):
    """One that speaks TLS only."""

    @property
    def url(self) -> str:
        return f"https://{self.address}"

    def _ready(self) -> bool:
        return "Server is ready to receive web requests" in self.log()


@dataclass(frozen=True)
class Secure:
    """A Prometheus that wants a client certificate and a password, and the files that open it."""

    server: SecurePrometheus
    folder: Path
    ca: Path
    pair: Path

    @property
    def whole(self) -> dict[str, object]:
        """What a config file must say to get in."""
        return {
            "basic_auth": {"username": USER, "password": PASSWORD},
            "tls_config": {
                "ca_file": "authority.pem",
                "cert_file": str(self.pair),
                "key_file": str(self.pair),
            },
        }

    def written(self, content: Mapping[str, object]) -> str:
        file = self.folder / "http.yml"
        file.write_text(json.dumps(content))
        return str(file)


@pytest.fixture(scope="module")
def secure(
    tmp_path_factory: pytest.TempPathFactory, prometheus_release: PrometheusRelease
) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("secure")
    web = WebFolder(folder)
    web.write(tls_server_config=web.client_tls(), basic_auth_users={USER: hashed(PASSWORD)})
    ca, pair = folder / "authority.pem", web.client()
    ca.write_bytes(web.authority.cert_pem.bytes())
    server = SecurePrometheus.on_blocks(
        folder / "server",
        trace_text(500),
        args=[f"--web.config.file={web.file}"],
        release=prometheus_release,
    )
    with server:
        yield Secure(server, folder, ca, pair)


def test_promtools_file_opens_a_real_prometheus(secure: Secure) -> None:
    """With a client certificate and a password, Prometheus behind TLS can be read."""
    source = open_source(secure.server.url, read_config(secure.written(secure.whole)))
    assert [len(one) for one in fetch(source, T0, T0 + 60_000)] == [500, 500]
    assert source.address == secure.server.url


def test_options_open_it_too(secure: Secure) -> None:
    """The same settings work as command line options and as environment variables."""
    password = secure.folder / "password"
    password.write_text(PASSWORD + "\n")
    options = {
        "ca-file": str(secure.ca),
        "cert-file": str(secure.pair),
        "user": USER,
        "password-file": str(password),
    }
    window = f"{T0 / 1000},{T0 / 1000 + 10}"
    command = [sys.executable, "-m", "llem_integrator", "--source", secure.server.url, "--window", window]
    flags = [part for name, value in options.items() for part in (f"--http.{name}", value)]
    variables = {f"LLEM_INTEGRATE_HTTP_{name.upper().replace('-', '_')}": v for name, v in options.items()}
    answers = [
        subprocess.run(
            [*command, *more, "--format", "json"], env=env, capture_output=True, text=True, check=False
        )
        for more, env in ((flags, dict(os.environ)), ([], os.environ | variables))
    ]
    for answer in answers:
        assert answer.returncode == 0, answer.stderr
        assert json.loads(answer.stdout)["windows"][0]["total_j"] > 0
        assert PASSWORD not in answer.stdout
    refused = subprocess.run(
        [*command, "--http.ca-file", str(secure.ca)], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: no answer from {secure.server.url}")
    assert "_ssl.c" not in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


REFUSED: list[tuple[dict[str, object], str]] = [
    (
        {"basic_auth": {"username": USER, "password": "wrong-one"}},
        "401: Unauthorized .set the credentials: --http.user",
    ),
    ({"basic_auth": {}}, "401: Unauthorized .set the credentials: --http.user"),
    ({"tls_config": {"ca_file": "authority.pem"}}, "no answer from .*certificate"),
    ({"tls_config": {}}, r"cannot connect to .*: the certificate is not trusted \(.*; set --http.ca-file$"),
    ({"tls_config": {"insecure_skip_verify": True}}, "no answer from .*certificate"),
]


def test_who_is_not_let_in_is_told_why(secure: Secure, subtests: pytest.Subtests) -> None:
    """A wrong password, and an invalid or missing certificate, give one line without the password."""
    for change, words in REFUSED:
        with subtests.test(change=change, words=words):
            with pytest.raises(SourceError, match=words) as caught:
                open_source(secure.server.url, read_config(secure.written({**secure.whole, **change})))
            assert "wrong-one" not in str(caught.value)


def test_a_server_of_another_name(secure: Secure) -> None:
    """The name in the certificate must match server_name, unless verification is off."""
    url = secure.server.url
    tls = dict(secure.whole["tls_config"])  # type: ignore[call-overload]
    for name, opens in (("localhost", True), ("127.0.0.1", True), ("elsewhere", False)):
        config = read_config(secure.written({**secure.whole, "tls_config": {**tls, "server_name": name}}))
        if opens:
            assert isinstance(open_source(url, config), PrometheusSource)
        else:
            with pytest.raises(SourceError, match=r"the certificate is not trusted \(Hostname mismatch.*\)$"):
                open_source(url, config)
    wrong = {**tls, "server_name": "elsewhere", "insecure_skip_verify": True, "min_version": "TLS13"}
    config = read_config(secure.written({**secure.whole, "tls_config": wrong}))
    assert isinstance(open_source(url, config), PrometheusSource)


def sent(config: HttpConfig, url: Callable[[str], str] = str) -> Mapping[str, str]:
    """The headers that a server gets."""
    with StandIn(lambda _: Reply()) as server:
        Http(url(server.url), config).request("GET", "/")
        return server.asked[0].headers


def test_headers_of_every_kind_are_sent(tmp_path: Path) -> None:
    """Tenants and all forms of credentials are sent, from the file or from files that it names."""
    (tmp_path / "secret").write_text("from-file\n")
    forms = {
        "authorization: {credentials: abc}": {"authorization": "Bearer abc"},
        "authorization: {type: Token, credentials_file: secret}": {"authorization": "Token from-file"},
        "bearer_token: abc": {"authorization": "Bearer abc"},
        "bearer_token_file: secret": {"authorization": "Bearer from-file"},
        "headers: {X-Scope-OrgID: team|b}": {"x-scope-orgid": "team|b"},
        "http_headers: {X-A: {values: [x]}, X-B: {secrets: [y]}, X-C: {files: [secret]}}": {
            "x-a": "x",
            "x-b": "y",
            "x-c": "from-file",
        },
        "follow_redirects: false\nenable_http2: true": {},
        "": {},
    }
    for text, expected in forms.items():
        (tmp_path / "http.yml").write_text(text)
        got = sent(read_config(str(tmp_path / "http.yml")))
        assert {name: got[name] for name in expected} == expected
    (tmp_path / "http.yml").write_text("basic_auth: {username: ann, password_file: secret}")
    kind, _, pair = sent(read_config(str(tmp_path / "http.yml")))["authorization"].partition(" ")
    assert (kind, b64decode(pair)) == ("Basic", b"ann:from-file")
    got = sent(HttpConfig(), lambda url: url.replace("//", "//ann:p%40ss@"))
    assert b64decode(got["authorization"].partition(" ")[2]) == b"ann:p@ss"


def test_options_win_over_the_file(tmp_path: Path) -> None:
    """A header or token option overrides the file. Other settings are kept."""
    (tmp_path / "token").write_text("new")
    config = HttpConfig(headers=(("Authorization", "Bearer old"), ("X-Scope-OrgID", "a"), ("X-B", "b")))
    config = http_config(config, headers=["x-scope-orgid: c"], bearer_token_file=str(tmp_path / "token"))
    got = sent(config)
    assert (got["authorization"], got["x-scope-orgid"], got["x-b"]) == ("Bearer new", "c", "b")
    (tmp_path / "http.yml").write_text("basic_auth: {username: ann, password: secret}")
    got = sent(http_config(str(tmp_path / "http.yml"), headers=["X-B: b"]))
    assert (got["authorization"], got["x-b"]) == ("Basic " + b64encode(b"ann:secret").decode(), "b")


BAD_FILES = [
    ("bearer_token: hidden\nbearer_token: hidden", "line 2: duplicate key 'bearer_token'"),
    ("colour: red", "'colour' is not supported"),
    ("oauth2: {client_id: hidden}", "'oauth2' is not supported"),
    ("tls_config: {ca: hidden}", "'tls_config.ca' is not supported"),
    ("tls_config: {min_version: TLS9}", "min_version must be one of TLS10"),
    ("tls_config: {cert_file: x}", "cert_file and key_file must be set together"),
    ("tls_config: {insecure_skip_verify: hidden}", "insecure_skip_verify must be true or false"),
    (
        "basic_auth: {username: ann, password: hidden, password_file: x}",
        "only one of password and password_file",
    ),
    ("basic_auth: {password: hidden}", "basic_auth.username is required"),
    (
        "basic_auth: {username: ann, password: hidden}\nbearer_token: hidden",
        "only one of basic_auth, authorization and",
    ),
    ("authorization: {type: Basic, credentials: hidden}", "use basic_auth"),
    ("authorization: {type: Bearer}", "authorization.credentials or credentials_file is required"),
    ("bearer_token: [hidden]", "bearer_token must be a string"),
    ("bearer_token_file: none", "bearer_token_file: cannot read .*none: No such file"),
    ('bearer_token: "hidden\\n"', "has characters that are not allowed in a header"),
    ("headers: {'a b': hidden}", "not a valid header name: 'a b'"),
    ("headers: {Host: hidden}", "the header Host cannot be changed; remove it"),
    ("headers: {X-A: hidden, x-a: hidden}", "the header x-a is set twice in the file"),
    ("http_headers: {X-A: {values: [hidden, hidden]}}", "http_headers.X-A: exactly one value is needed"),
    ("http_headers: {X-A: {values: hidden}}", "http_headers.X-A.values must be a list of strings"),
    ("headers: hidden", "headers must be a mapping"),
    ("- hidden", "the file must be a mapping"),
    ("tls_config: {ca_file: [hidden]}", "tls_config.ca_file must be a string"),
    ("headers: {X-A: {b: hidden}}", "headers.X-A must be a string"),
    ("proxy_url: {a: hidden}", "proxy_url must be a string"),
    ("basic_auth: {username: hidden", "line 1: not valid YAML"),
    ("[" * 500, "nested too deeply|not valid YAML"),
]


def test_what_a_file_may_not_say(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """Each error is one line with the file and the key, without the value."""
    for text, message in BAD_FILES:
        with subtests.test(text=text, message=message):
            file = tmp_path / "http.yml"
            file.write_text(text)
            with pytest.raises(ConfigError, match=message) as caught:
                read_config(str(file))
            assert str(file) in str(caught.value)
            assert "hidden" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    """Missing files, invalid certificates, and options without their counterpart are named."""
    (tmp_path / "junk").write_bytes(b"\xff\x00")
    junk, cert = str(tmp_path / "junk"), str(WebFolder(tmp_path).client())
    for path, message in ((str(tmp_path / "none"), "cannot read"), (junk, "not a text file")):
        with pytest.raises(ConfigError, match=message):
            read_config(path)
    for tls, message in (
        (Tls(ca_file=junk), "ca_file .*junk"),
        (Tls(cert_file=junk), "client certificate .*junk: .*no private key.*; set --http.key-file"),
        (Tls(cert_file=junk, key_file=junk), "client certificate .*: .*junk is encrypted or does not belong"),
        (Tls(cert_file=f"{junk}.pem"), "client certificate .*junk.pem: No such file"),
        (Tls(cert_file=cert, key_file=f"{junk}.key"), r"No such file .* or .*junk.key\)"),
    ):
        with pytest.raises(ConfigError, match=f"cannot use .*{message}"):
            tls.context()
    halves: list[tuple[dict[str, str], str]] = [
        ({"user": "ann"}, "must be set together"),
        ({"password_file": junk}, "must be set together"),
        ({"key_file": junk}, "--http.key-file needs --http.cert-file"),
        ({"bearer_token_file": junk}, "is not a text file"),
    ]
    for options, message in halves:
        with pytest.raises(ConfigError, match=message):
            http_config(**options)
    for header, message in (("hidden", "NAME: VALUE"), ("a: hid\x00den", "not allowed in a header")):
        with pytest.raises(ConfigError, match=message) as caught:
            http_config(headers=[header])
        assert "hid" not in str(caught.value)


def test_secrets_are_in_no_text_of_a_configuration() -> None:
    """The repr, as shown in a traceback or a debugger, contains no secrets."""
    config = HttpConfig(headers=(("Authorization", "Bearer hidden"),), proxy_url="http://ann:hidden@proxy:1")
    assert "hidden" not in repr(config) + str(config)


def test_a_proxy_is_asked_for_the_store() -> None:
    """The proxy gets requests with the full URL, and only its own credentials."""
    with StandIn(lambda _: Reply(body=b"{}")) as proxy:
        config = HttpConfig(proxy_url=proxy.url.replace("//", "//ann:word@"))
        assert Http("http://store.example:9090", config).request("GET", "/x").status == 200
        (asked,) = proxy.asked
    assert asked.path == "http://store.example:9090/x"
    assert b64decode(asked.headers["proxy-authorization"].partition(" ")[2]) == b"ann:word"
