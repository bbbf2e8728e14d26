"""Programs in processes of their own, with the real libraries, on a fake driver or on none."""

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]

_PRELUDE = """
import json, logging, os, sys, time
from llem_exporter import energy_backends as eb
from llem_exporter.measure import measure

def shown(m):
    return m and {
        "total_j": m.total_j, "per_gpu_j": m.per_gpu_j, "bounds_j": m.per_gpu_bounds_j, "samples": m.samples,
        "start": m.start_unix_s, "end": m.end_unix_s, "duration": m.duration_sec, "coverage": m.coverage,
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


class Child:
    """A Python program that tells JSON, line by line; `site` replaces its site-packages."""

    def __init__(self, program: str, env: Mapping[str, str], site: Path | None = None) -> None:
        paths = [*([str(site)] if site else []), str(ROOT / "exporter")]
        options = ["-S"] if site else []
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", *options, "-c", _PRELUDE + program],
            env={**os.environ, **env, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.errors = ""

    def hear(self) -> Any:
        """The next thing that the program tells."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.end()
            raise AssertionError(f"the program told nothing more:\n{self.errors}")
        return json.loads(line)

    def go_on(self) -> None:
        """Let a program that waits for a line, as `input()` does, go on."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> int:
        """Wait for the end; what it wrote on standard error is in `errors`."""
        _, self.errors = self._process.communicate()
        return self._process.returncode

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
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
