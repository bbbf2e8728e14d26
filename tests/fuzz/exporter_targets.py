"""What is fuzzed of llem-exporter."""

from contextlib import suppress
from math import isfinite
from typing import Final

import click
from aiohttp import web

from llem_core.errors import ConfigError, LLEMError
from llem_exporter.cli import main as exporter_command
from llem_exporter.collectors.job_files import MAX_BYTES, read_jobs
from llem_exporter.replay import device as replay
from llem_exporter.web.history import MAX_UNIX_SECONDS, parse_limit, parse_since
from llem_exporter.web.reload import LiveWebConfig
from tests.fuzz.target import Target, folder

UUID: Final = "gpu-0a1b"


def play_trace(data: bytes) -> None:
    """A replayed trace: every reading of an accepted one is a number from 0 up."""
    path = folder() / "trace.csv"
    path.write_bytes(data)
    with suppress(LLEMError):
        for device in replay.open_devices(str(path), 1000):
            for unix_ms in (0, 1000, 1050, 123_456_789, 1_795_507_546_000):
                watts = device.read_watts(unix_ms)
                assert isfinite(watts) and watts >= 0, watts  # noqa: PT018 - one idea
                if device.has_joules:
                    assert isfinite(device.read_joules(unix_ms))


def ask_history(data: bytes) -> None:
    """The values of /history's query."""
    text = data.decode("utf-8", "replace")
    with suppress(web.HTTPBadRequest):
        assert 0 <= parse_since(text) < MAX_UNIX_SECONDS * 1000
    with suppress(web.HTTPBadRequest):
        assert parse_limit(text) > 0


def read_options(data: bytes) -> None:
    """The exporter's durations and addresses."""
    text = data.decode("utf-8", "replace")
    for option in ("--sample-interval", "--history.retention", "--web.listen-address"):
        with suppress(click.ClickException):
            exporter_command.make_context("llem-exporter", [f"{option}={text}"])


def read_web_config(data: bytes) -> None:
    """A web config file: what is refused is said in one line."""
    path = folder() / "web.yml"
    path.write_bytes(data)
    said = ""
    try:
        LiveWebConfig(path)
    except ConfigError as exc:
        said = str(exc)
    assert said.isprintable(), said


def read_job_file(data: bytes) -> None:
    """A job file: what is taken from it is text of bounded length that can be printed."""
    directory = folder() / "jobs"
    directory.mkdir(exist_ok=True)
    (directory / UUID).write_bytes(data)
    for job in read_jobs(str(directory), [UUID]).jobs:
        values = (job.job_id, job.user, job.account, job.partition)
        assert "".join(values).isprintable()
        assert job.job_id
        assert max(map(len, values)) <= MAX_BYTES


WEB_CONFIGS: Final = (
    b"tls_server_config:\n  cert_file: |\n    a\n  key_file: x\n  client_auth_type: NoClientCert\n",
    b"basic_auth_users:\n  a: $2b$04$7EqJtq98hPqEX7fNZaFWoOhi5yZTHwbMiI1oVBcKsTLYGYNBDEHJO\n",
    b'http_server_config:\n  http2: true\ntls_server_config: {min_version: "\\x31"}\n',
    b'{"basic_auth_users": {"\\ud800\\U0001f600": "x"}}',
)
TARGETS: Final = {
    "replay": Target(
        play_trace, (b"seconds,gpu,watts,joules\n0,0,100,5\n0.1,0,120,16\n", b"gpu,seconds,watts\n")
    ),
    "history": Target(ask_history, (b"1795507546.3", b"1e9", b"-0", b"100")),
    "options": Target(read_options, (b"100ms", b"1.5s", b"127.0.0.1:9955", b"[::1]:0", b":9955")),
    "web_config": Target(read_web_config, WEB_CONFIGS),
    "jobs": Target(
        read_job_file,
        (b"job_id=12\nuser=ann\n# a remark\njob_id=13\n", b"user=bob\n\njob_id = x y \naccount=c\n"),
    ),
}
