"""Which store a URL is, and which URLs are none."""

from pathlib import Path

import pytest

from llem_core.errors import ConfigError, SourceError
from llem_integrator import cli
from llem_integrator.http.access import HttpConfig
from llem_integrator.stores import DEFAULT_URL, open_source
from tests.llem_integrator.stand_ins import Reply, StandIn, always, answering


def test_prometheus_that_is_not_there_is_one_line() -> None:
    """An unreachable server is an error that names it, at once."""
    with pytest.raises(SourceError, match=r"no answer from http://127\.0\.0\.1:9/\S+: .*refused"):
        open_source("http://127.0.0.1:9")


def test_the_default_source_names_the_exporter() -> None:
    """If the default source cannot be read, the error says how to read an exporter instead."""
    hint = "--source http://localhost:9955"
    with answering(404, b"") as url:
        config = HttpConfig(proxy_url=url)  # which answers in place of every address
        with pytest.raises(SourceError, match=hint):
            open_source(DEFAULT_URL, config)
        with pytest.raises(SourceError) as caught:
            open_source("http://elsewhere.example:9090", config)
        assert hint not in str(caught.value)


def test_the_default_of_the_option_is_the_default() -> None:
    """--source has the default that the error knows."""
    (option,) = (param for param in cli.command.params if param.name == "source")
    assert option.default == DEFAULT_URL


def test_a_file_may_be_named_like_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HOST:PORT is a file if there is one of that name."""
    monkeypatch.chdir(tmp_path)
    Path("localhost:9090").write_text("# EOF\n")
    assert open_source("localhost:9090").address == "localhost:9090"


def test_passwords_are_not_shown() -> None:
    """No message contains the user or the password of the URL."""
    with pytest.raises(SourceError) as caught:
        open_source("http://ann:secret@127.0.0.1:9")
    assert "secret" not in str(caught.value)


NO_URLS = [
    *("http://[::1", "http://[", "//[x", "http://localhost:99999", "http://h:abc", "http://a b"),
    *("http://", "http://:80", "http://[::1]x", "HTTPS://ann:secret@h:abc", "http://h:0"),
]


def test_what_is_no_url_is_one_line(subtests: pytest.Subtests) -> None:
    """An invalid URL is rejected before a request. The message contains no password."""
    for where in NO_URLS:
        with subtests.test(where=where):
            with pytest.raises(ConfigError, match="not a URL") as caught:
                open_source(where)
            assert "secret" not in str(caught.value)


def test_a_redirect_to_what_is_no_url(subtests: pytest.Subtests) -> None:
    """A redirect to an invalid URL is an error."""
    for location in ["http://[::1", "http://localhost:99999", "http://h:abc"]:
        with (
            subtests.test(location=location),
            answering(302, b"", headers={"Location": location}) as url,
            pytest.raises(SourceError, match="no answer from"),
        ):
            open_source(url)


def test_a_server_in_trouble_is_not_something_else(subtests: pytest.Subtests) -> None:
    """The error has the HTTP status. With a Retry-After of a minute, there is no second attempt."""
    for status in (500, 502, 503):
        reply = Reply(status, b"<html>", {"Retry-After": "60"})
        with subtests.test(status=status), StandIn(always(reply)) as server:
            with pytest.raises(SourceError, match=f"answered {status}"):
                open_source(server.url)
            paths = [asked.path for asked in server.asked]
            assert len(paths) == len(set(paths))


def test_a_deeply_nested_answer_is_none() -> None:
    """JSON that is nested deeper than Python allows is an error."""
    with answering(200, b"[" * 100_000) as url, pytest.raises(SourceError, match="neither a Prometheus"):
        open_source(url)


def test_something_else_than_a_store_is_refused() -> None:
    """A web server that is neither Prometheus nor the exporter is rejected."""
    with answering(200, b"<html>") as url, pytest.raises(SourceError, match="neither a Prometheus"):
        open_source(url)
    with pytest.raises(ConfigError, match="ftp"):
        open_source("ftp://x/y")
