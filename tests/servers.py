"""Real servers for tests, on loopback: each a context manager that is ready on entry and dead on exit.

    with Exporter(args=["--replay", "trace.csv"]) as exporter:
        with Prometheus(tmp_path, scrape_configs=[scrape_config("llem", exporter)]) as prometheus:
            prometheus.wait_for("llem_gpu_power_watts")

A server dies with the thread that started it, however that ends (PR_SET_PDEATHSIG, through
setpriv), so start them from the main thread. A program that is not installed is an error that
names its Debian package.
"""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, Self, TypeVar

import urllib3

START_SECONDS = 30.0
STOP_SECONDS = 10.0
LOG_TAIL_LINES = 40
POLL_SECONDS = 0.02
# Below the kernel's range for outgoing connections, so that a port stays free across a restart.
PORTS = range(20_000, 32_000)
PORT_TRIALS = 100

Found = TypeVar("Found")


class ServerError(Exception):
    """A server did not start, died, or answered with an error; the text ends with its log's tail."""


def program(name: str, package: str) -> str:
    """Path of an installed program; FileNotFoundError names the Debian package that has it."""
    path = shutil.which(name)
    if path is None:
        raise FileNotFoundError(f"{name} is not installed: apt-get install {package} (tests/run does it)")
    return path


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now."""
    for port in random.sample(PORTS, PORT_TRIALS):
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServerError(f"none of {PORT_TRIALS} random ports of 127.0.0.1 is free")


def wait_until(found: Callable[[], Found], what: str, timeout_s: float = START_SECONDS) -> Found:
    """The first true value of `found()`; TimeoutError says that `what` was not seen."""
    deadline = time.monotonic() + timeout_s
    while not (value := found()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        time.sleep(POLL_SECONDS)
    return value


def _stopped(task: Path) -> bool:
    """Whether a thread is stopped. Source: proc(5), the state follows the name in parentheses."""
    return (task / "stat").read_text().rpartition(") ")[2].startswith("T")


class Server(ABC):
    """A child process that serves HTTP; `env` is added to this process's environment."""

    def __init__(self, *, env: Mapping[str, str] | None = None, port: int | None = None) -> None:
        self.port = port or free_port()
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """The command line that serves on `self.port`."""

    @abstractmethod
    def _ready(self) -> bool:
        """Whether the server answers as it should."""

    @property
    def address(self) -> str:
        """HOST:PORT, as in a scrape target."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerError(f"{type(self).__name__} was not started")
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        """All that the server has written to its stdout and stderr, over all its starts."""
        if self._log is None:
            return ""
        # pread: the child shares the file's offset, which must stay where its next line goes.
        descriptor = self._log.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def start(self) -> Self:
        """Start, or start again after kill() or terminate(), on the same port; returns when ready."""
        command = self._command()
        setpriv = program("setpriv", "util-linux")
        if self._log is None:
            self._log = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (it outlives this call)
        self._process = subprocess.Popen(
            [setpriv, "--pdeathsig", "KILL", "--", *command],
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_until(self._alive_and_ready, f"{type(self).__name__} ready")
        except BaseException as error:
            self.kill()
            if isinstance(error, TimeoutError):
                raise self._error(str(error)) from error
            raise
        return self

    def stop(self) -> None:
        """SIGSTOP: the server hangs, its connections stay open; returns when all its threads have stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        tasks = Path(f"/proc/{self.pid}/task")
        wait_until(lambda: all(_stopped(task) for task in tasks.iterdir()), "a stopped server")

    def cont(self) -> None:
        """SIGCONT: the server goes on after stop()."""
        os.kill(self.pid, signal.SIGCONT)

    def terminate(self, timeout_s: float = STOP_SECONDS) -> int:
        """SIGTERM; returns the exit status."""
        self.process.terminate()
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL, to the server and to all that it started."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()

    def fetch(
        self,
        path: str,
        fields: Mapping[str, str] | None = None,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = STOP_SECONDS,
    ) -> urllib3.BaseHTTPResponse:
        """One request on a connection of its own; `fields` are its query, or a POST's form."""
        with urllib3.HTTPConnectionPool("127.0.0.1", self.port, timeout=timeout_s, retries=False) as pool:
            if method == "POST":
                return pool.request_encode_body(
                    method, path, dict(fields or {}), dict(headers or {}), encode_multipart=False
                )
            return pool.request(method, path, fields=dict(fields or {}), headers=dict(headers or {}))

    def fetch_text(self, path: str, fields: Mapping[str, str] | None = None, *, method: str = "GET") -> str:
        """A page that answers 200, decoded; anything else is a ServerError."""
        response = self.fetch(path, fields, method=method)
        text = response.data.decode()
        if response.status != 200:
            raise self._error(f"{self.url}{path} answered {response.status}: {text}")
        return text

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self._close_log()
            raise

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if self.process.poll() is None:
                self.cont()
                self.process.terminate()
                self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            if kind is None:
                raise self._error(f"still running {STOP_SECONDS:g} s after SIGTERM") from None
        finally:
            self.kill()
            if kind is not None:
                print(f"--- {type(self).__name__} {self.url}\n{self._log_tail()}", file=sys.stderr)
            self._close_log()

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    def _alive_and_ready(self) -> bool:
        if self.process.poll() is not None:
            raise self._error(f"exited with status {self.process.returncode} at its start")
        return self._ready()

    def _answers(self, path: str) -> bool:
        try:
            return self.fetch(path, timeout_s=1.0).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def _log_tail(self) -> str:
        return "\n".join(self.log().splitlines()[-LOG_TAIL_LINES:])

    def _error(self, message: str) -> ServerError:
        return ServerError(f"{type(self).__name__}: {message}\n{self._log_tail()}")


class QueryServer(Server):
    """A store that answers Prometheus's query API."""

    def query(self, expression: str, unix_s: float | None = None) -> list[Any]:
        """`data.result` of an instant query at `unix_s` (now): dicts with `metric`, `value` or `values`."""
        fields = {"query": expression} | ({} if unix_s is None else {"time": f"{unix_s:.3f}"})
        answer = json.loads(self.fetch_text("/api/v1/query", fields, method="POST"))
        result: list[Any] = answer["data"]["result"]
        return result

    def value(self, expression: str, unix_s: float | None = None) -> float:
        """The value of an expression that has exactly one."""
        result = self.query(expression, unix_s)
        if len(result) != 1:
            raise ServerError(f"{expression} has {len(result)} values, not one: {result}")
        return float(result[0]["value"][1])

    def wait_for(self, expression: str, timeout_s: float = START_SECONDS) -> list[Any]:
        """`query(expression)` as soon as it is not empty."""
        return wait_until(lambda: self.query(expression), f"{expression} on {self.url}", timeout_s)


@dataclass(frozen=True, slots=True)
class PrometheusRelease:
    """A version of Prometheus on this machine: its number and its two programs."""

    version: str
    prometheus: str
    promtool: str

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])


def installed_prometheus() -> PrometheusRelease:
    """The Prometheus of Debian's package."""
    server = program("prometheus", "prometheus")
    return PrometheusRelease(_prometheus_version(server), server, program("promtool", "prometheus"))


def prometheus_releases() -> list[PrometheusRelease]:
    """Debian's Prometheus and, where tests/run has one, Prometheus 3 (LLEM_PROMETHEUS3 is its path)."""
    releases = [installed_prometheus()]
    if server := os.environ.get("LLEM_PROMETHEUS3"):
        promtool = str(Path(server).with_name("promtool"))
        releases.append(PrometheusRelease(_prometheus_version(server), server, promtool))
    return releases


@cache
def _prometheus_version(server: str) -> str:
    said = subprocess.run([server, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"version (\d+\.\d+\.\d+)", said.stdout + said.stderr)
    if found is None:
        raise ServerError(f"{server} does not say its version: {said.stdout}{said.stderr}")
    return found[1]


class Prometheus(QueryServer):
    """A Prometheus whose blocks and prometheus.yml are in `directory`.

    `config` is merged over the file's top level (global, rule_files, alerting, ...); `args` go on
    the command line; `release` chooses another version than the installed one.
    """

    def __init__(
        self,
        directory: Path,
        scrape_configs: Sequence[Mapping[str, Any]] = (),
        *,
        config: Mapping[str, Any] | None = None,
        args: Sequence[str] = (),
        release: PrometheusRelease | None = None,
        port: int | None = None,
    ) -> None:
        super().__init__(port=port)
        self.data = directory / "data"
        self._release = release or installed_prometheus()
        self._args = tuple(args)
        self._config_file = directory / "prometheus.yml"
        self.configure(scrape_configs, config)

    @classmethod
    def on_blocks(
        cls,
        directory: Path,
        openmetrics: str,
        *,
        args: Sequence[str] = (),
        release: PrometheusRelease | None = None,
    ) -> Self:
        """A Prometheus that holds exactly the samples of an OpenMetrics text, however old they are."""
        release = release or installed_prometheus()
        data = directory / "data"
        data.mkdir(parents=True)
        text = directory / "samples.om"
        text.write_text(openmetrics)
        made = subprocess.run(
            [release.promtool, "tsdb", "create-blocks-from", "openmetrics", str(text), str(data)],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise ServerError(f"promtool made no blocks: {made.stdout}{made.stderr}")
        return cls(directory, args=["--storage.tsdb.retention.time=100y", *args], release=release)

    def configure(
        self, scrape_configs: Sequence[Mapping[str, Any]] = (), config: Mapping[str, Any] | None = None
    ) -> None:
        """Write the configuration file anew; a running server wants a reload() then."""
        # JSON is YAML.
        self._config_file.write_text(json.dumps({"scrape_configs": list(scrape_configs), **(config or {})}))

    def reload(self) -> None:
        """Have the configuration file read again; a ServerError says what is wrong with it."""
        self.fetch_text("/-/reload", method="POST")

    def _command(self) -> Sequence[str]:
        return [
            self._release.prometheus,
            f"--config.file={self._config_file}",
            f"--storage.tsdb.path={self.data}",
            f"--web.listen-address={self.address}",
            "--web.enable-lifecycle",
            "--web.enable-admin-api",
            *self._args,
        ]

    def _ready(self) -> bool:
        return self._answers("/-/ready")


class VictoriaMetrics(QueryServer):
    """A VictoriaMetrics whose data and scrape configuration are in `directory`."""

    def __init__(
        self,
        directory: Path,
        scrape_configs: Sequence[Mapping[str, Any]] = (),
        *,
        args: Sequence[str] = (),
        binary: str | None = None,
        port: int | None = None,
    ) -> None:
        super().__init__(port=port)
        self._directory = directory
        self._args = tuple(args)
        self._binary = binary or program("victoria-metrics", "victoria-metrics")
        self._config_file = directory / "scrape.yml"
        self._config_file.write_text(json.dumps({"scrape_configs": list(scrape_configs)}))

    def flush(self) -> None:
        """Make all that was stored so far visible to queries."""
        self.fetch_text("/internal/force_flush")

    def query(self, expression: str, unix_s: float | None = None) -> list[Any]:
        # An empty answer to a query that came before the first sample would be cached for 10 s.
        self.flush()
        return super().query(expression, unix_s)

    def export(self, selector: str) -> list[dict[str, Any]]:
        """The raw samples of each series: dicts with `metric`, `values`, `timestamps` (unix ms)."""
        self.flush()
        lines = self.fetch_text("/api/v1/export", {"match[]": selector}, method="POST").splitlines()
        return [json.loads(line) for line in lines]

    def _command(self) -> Sequence[str]:
        return [
            self._binary,
            f"-promscrape.config={self._config_file}",
            f"-storageDataPath={self._directory / 'data'}",
            f"-httpListenAddr={self.address}",
            "-retentionPeriod=100y",
            "-search.latencyOffset=0s",  # the newest samples too; its default hides 30 s
            "-memory.allowedBytes=256MB",
            *self._args,
        ]

    def _ready(self) -> bool:
        return self._answers("/health")


class Alertmanager(Server):
    """An Alertmanager that keeps its alerts to itself, or follows `config` (its YAML's top level)."""

    def __init__(
        self,
        directory: Path,
        config: Mapping[str, Any] | None = None,
        *,
        args: Sequence[str] = (),
        binary: str | None = None,
        port: int | None = None,
    ) -> None:
        super().__init__(port=port)
        self._directory = directory
        self._args = tuple(args)
        self._binary = binary or program("prometheus-alertmanager", "prometheus-alertmanager")
        self._config_file = directory / "alertmanager.yml"
        silent = {"route": {"receiver": "none"}, "receivers": [{"name": "none"}]}
        self._config_file.write_text(json.dumps(config or silent))

    def alerts(self) -> list[Any]:
        """The alerts it holds, as its API's dicts (`labels`, `annotations`, `startsAt`, ...)."""
        alerts: list[Any] = json.loads(self.fetch_text("/api/v2/alerts"))
        return alerts

    def _command(self) -> Sequence[str]:
        return [
            self._binary,
            f"--config.file={self._config_file}",
            f"--storage.path={self._directory / 'data'}",
            f"--web.listen-address={self.address}",
            "--cluster.listen-address=",  # no cluster
            *self._args,
        ]

    def _ready(self) -> bool:
        return self._answers("/-/ready")


class Pushgateway(Server):
    """A Pushgateway that keeps what it was sent in memory."""

    def _command(self) -> Sequence[str]:
        binary = program("prometheus-pushgateway", "prometheus-pushgateway")
        return [binary, f"--web.listen-address={self.address}"]

    def _ready(self) -> bool:
        return self._answers("/-/ready")


class Exporter(Server):
    """llem-exporter; `args` go on its command line.

    On a port of its own choice, or on `port` (free_port() where it must be free again after a long pause).
    """

    def __init__(
        self, *, env: Mapping[str, str] | None = None, args: Sequence[str] = (), port: int | None = None
    ) -> None:
        super().__init__(env=env, port=port)
        self._listen_port = port or 0
        self._args = tuple(args)
        self._starts = 0

    def metrics(self) -> str:
        """The text of /metrics."""
        return self.fetch_text("/metrics")

    def _command(self) -> Sequence[str]:
        self._starts += 1
        listen = f"127.0.0.1:{self._listen_port}"
        return [sys.executable, "-m", "llem_exporter", "--web.listen-address", listen, *self._args]

    def _ready(self) -> bool:
        found = re.findall(r"listening on http://127\.0\.0\.1:(\d+)", self.log())
        if len(found) < self._starts:
            return False
        self.port = self._listen_port = int(found[-1])
        return True


def scrape_config(
    job: str,
    *targets: Server | str,
    interval: str = "1s",
    path: str = "/metrics",
    params: Mapping[str, Sequence[str]] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """One entry of `scrape_configs`: `targets` are servers or HOST:PORT; `more` are its other keys."""
    addresses = [target.address if isinstance(target, Server) else target for target in targets]
    return {
        "job_name": job,
        "scrape_interval": interval,
        "scrape_timeout": interval,
        "metrics_path": path,
        "params": {name: list(values) for name, values in (params or {}).items()},
        "static_configs": [{"targets": addresses}],
        **more,
    }
