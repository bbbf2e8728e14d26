"""Programs in processes of their own, with the real libraries, on a fake driver or on none."""

import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

_PRELUDE = """
import json, logging, os, sys, time
import llem_measure as eb
from llem_measure.block import measure

def shown(m):
    return m and {
        "total_j": m.total_j, "per_gpu_j": m.per_gpu_j, "bounds_j": m.per_gpu_bounds_j, "samples": m.samples,
        "start": m.start_unix_s, "end": m.end_unix_s, "duration": m.duration_sec, "coverage": m.coverage,
        "covered_s": m.duration_sec * m.coverage,
        "backend": m.backend, "scope": m.scope, "grams": m.emissions_g,
        "codes": [w.code for w in m.warnings], "messages": [w.message for w in m.warnings],
        "uuids": [w.uuid for w in m.warnings],
    }

def window(backend, seconds):
    tracker = backend.start_tracking()
    time.sleep(seconds)
    return shown(backend.stop_tracking(tracker))

def failure(call):
    try:
        call()
    except eb.ConfigError as exc:
        return str(exc)

def tell(answer):
    print(json.dumps(answer), flush=True)

"""

# Zeus and pandas take seconds to import: once, before the programs are forked. CodeCarbon looks for the
# driver when it is imported, so each program does that itself.
_FORK_SERVER = """
import json, os, socket, sys
import pandas, zeus.monitor

requests = socket.socket(fileno=os.dup(0))
while True:
    request, files, _, _ = socket.recv_fds(requests, 1 << 20, 3)
    if not request:
        sys.exit()
    message = json.loads(request)
    if "wait" in message:
        requests.send(json.dumps(os.waitstatus_to_exitcode(os.waitpid(message["wait"], 0)[1])).encode())
        continue
    if (pid := os.fork()) == 0:
        break
    requests.send(json.dumps(pid).encode())
    for file in files:
        os.close(file)
requests.close()
for number, file in enumerate(files):
    os.dup2(file, number)
    os.close(file)
os.environ.clear()
os.environ.update(message["env"])
exec(message["program"], {"__name__": "__main__"})
"""


class _ForkServer:
    """A process that has imported what is slow to import, and forks for each program."""

    def __init__(self, libraries: str) -> None:
        self._requests, requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with requests:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", _FORK_SERVER],
                env={
                    **os.environ,
                    "LD_LIBRARY_PATH": libraries,  # which the loader reads when a process starts
                    "OPENBLAS_NUM_THREADS": "1",  # a thread would not be forked
                    "PYTHONPATH": str(ROOT / "exporter"),
                },
                stdin=requests.fileno(),
                stdout=subprocess.DEVNULL,
            )

    def request(self, message: Mapping[str, Any], *files: int) -> int:
        socket.send_fds(self._requests, [json.dumps(message).encode()], files)
        answer = self._requests.recv(100)
        assert answer, "the fork server has ended"
        return int(json.loads(answer))


_fork_server = cache(_ForkServer)


class Child:
    """A Python program that tells JSON, line by line; `site` replaces its site-packages."""

    def __init__(self, program: str, env: Mapping[str, str], site: Path | None = None) -> None:
        self.errors = ""
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (it outlives this call)
        stdin, told_to = os.pipe()
        told_by, stdout = os.pipe()
        self._stdin, self._stdout = os.fdopen(told_to, "w"), os.fdopen(told_by)
        files, env = (stdin, stdout, self._log.fileno()), {**os.environ, **env}
        self._wait: Callable[[], int]
        if site is None:
            server = _fork_server(env["LD_LIBRARY_PATH"])
            self._pid = pid = server.request({"program": _PRELUDE + program, "env": env}, *files)
            self._wait = lambda: server.request({"wait": pid})
        else:
            process = subprocess.Popen(
                [sys.executable, "-W", "error", "-S", "-c", _PRELUDE + program],
                env={**env, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT / "exporter")])},
                stdin=stdin,
                stdout=stdout,
                stderr=self._log,
            )
            self._pid, self._wait = process.pid, process.wait
        os.close(stdin)
        os.close(stdout)

    def hear(self) -> Any:
        """The next thing that the program tells."""
        line = self._stdout.readline()
        if not line:
            self.end()
            raise AssertionError(f"the program told nothing more:\n{self.errors}")
        return json.loads(line)

    def go_on(self) -> None:
        """Let a program that waits for a line, as `input()` does, go on."""
        self._stdin.write("\n")
        self._stdin.flush()

    def end(self) -> int:
        """Wait for the end; what it wrote on standard error is in `errors`."""
        if not self._log.closed:
            self._stdin.close()
            self._stdout.close()
            self._status = self._wait()
            self._log.seek(0)
            self.errors = self._log.read()
            self._log.close()
        return self._status

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        if not self._log.closed:
            os.kill(self._pid, signal.SIGKILL)
        self.end()


def ask(program: str, env: Mapping[str, str], site: Path | None = None) -> Any:
    """The only thing that a program tells."""
    with Child(program, env, site) as child:
        answer = child.hear()
        assert child.end() == 0, child.errors
        return answer


def site_without(folder: Path, *packages: str) -> Path:
    """A folder like this environment's site-packages, but without these packages: really not installed."""
    site = folder / f"site-without-{'-'.join(packages)}"
    site.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(packages):
            (site / entry.name).symlink_to(entry)
    return site
