"""A program that serves HTTP on loopback, as a context manager: ready on entry, dead on exit."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Self, TypeVar

import urllib3

START_SECONDS = 60.0
STOP_SECONDS = 20.0
LOG_TAIL_LINES = 40
POLL_SECONDS = 0.02
# Below the kernel's range for outgoing connections, so that a port stays free across a restart.
PORTS = range(20_000, 32_000)
PORT_TRIALS = 100

Value = TypeVar("Value")


class ServerError(Exception):
    """A server did not start, died, or returned an error. The message ends with the tail of its log."""


def program(name: str, package: str) -> str:
    """Return the path of an installed program. FileNotFoundError names its Debian package."""
    path = shutil.which(name)
    if path is None:
        raise FileNotFoundError(f"{name} is not installed: apt-get install {package} (tests/run does it)")
    return path


def built_program(name: str) -> str:
    """Return the path of a program that tests/servers/build built; the variable LLEM_<NAME> has it."""
    path = os.environ.get(variable := f"LLEM_{name.upper()}")
    if path is None:
        raise FileNotFoundError(f"{variable} is not set: 'bash tests/run --full' builds {name} and sets it")
    return path


def free_port() -> int:
    """Return a port of 127.0.0.1 that is not in use now."""
    for port in random.sample(PORTS, PORT_TRIALS):
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServerError(f"{PORT_TRIALS} random ports of 127.0.0.1 are all in use")


def wait_until(condition: Callable[[], Value], what: str, timeout_s: float = START_SECONDS) -> Value:
    """Return the first true value of `condition()`. TimeoutError names `what`."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        time.sleep(POLL_SECONDS)
    return value


class Server(ABC):
    """A child process that serves HTTP; `env` is added to this process's environment.

    The kernel kills it when the thread that started it ends (PR_SET_PDEATHSIG, set by setpriv). Start it from
    the main thread.
    """

    def __init__(self, *, env: Mapping[str, str] | None = None, port: int | None = None) -> None:
        self.port = port or free_port()
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """Return the command line that serves on `self.port`."""

    @abstractmethod
    def _ready(self) -> bool:
        """Return whether the server is ready."""

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
        """Return all that the server has written to stdout and stderr since its first start."""
        if self._log is None:
            return ""
        # pread does not move the file offset. The child shares it and writes its next line there.
        descriptor = self._log.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def start(self) -> Self:
        """Start the server, or restart it on the same port after kill() or terminate().

        Return when it is ready.
        """
        setpriv = program("setpriv", "util-linux")
        if self._log is None:
            self._log = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            [setpriv, "--pdeathsig", "KILL", "--", *self._command()],
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_until(self._alive_and_ready, "ready")
        except TimeoutError as error:
            raise self._error(str(error)) from error
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """Send SIGSTOP and return when all threads have stopped. Connections stay open."""
        os.kill(self.pid, signal.SIGSTOP)
        tasks = Path(f"/proc/{self.pid}/task")
        wait_until(lambda: all(_is_stopped(task) for task in tasks.iterdir()), "a stopped server")

    def cont(self) -> None:
        """Send SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def terminate(self, timeout_s: float = STOP_SECONDS) -> int:
        """Send SIGTERM and return the exit status."""
        self.process.terminate()
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """Send SIGKILL to the server and to its children."""
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
        """Send one request on a new connection. `fields` are the query parameters, or the form of a POST."""
        with urllib3.HTTPConnectionPool("127.0.0.1", self.port, timeout=timeout_s, retries=False) as pool:
            if method == "POST":
                return pool.request_encode_body(
                    method, path, dict(fields or {}), dict(headers or {}), encode_multipart=False
                )
            return pool.request(method, path, fields=dict(fields or {}), headers=dict(headers or {}))

    def fetch_text(self, path: str, fields: Mapping[str, str] | None = None, *, method: str = "GET") -> str:
        """Return the decoded body of a page. A status other than 200 raises ServerError."""
        response = self.fetch(path, fields, method=method)
        text = response.data.decode()
        if response.status != 200:
            raise self._error(f"{self.url}{path} answered {response.status}: {text}")
        return text

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.kill()
            self._close_log()
            raise

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if self.process.poll() is None:
                self.cont()
                self.terminate()
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


def _is_stopped(task: Path) -> bool:
    """Return whether a thread is stopped. proc(5): the state follows the name in parentheses."""
    return (task / "stat").read_text().rpartition(") ")[2].startswith("T")
