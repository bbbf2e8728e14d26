"""Prometheus 2 from Debian's package, and Prometheus 3 as built by `tests/run --full`."""

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from tests.servers.process import Server, ServerError, built_program, program
from tests.servers.query import QueryServer


@dataclass(frozen=True, slots=True)
class PrometheusRelease:
    """An installed version of Prometheus: its number and the paths of prometheus and promtool."""

    version: str
    prometheus: str
    promtool: str

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])


def installed_prometheus() -> PrometheusRelease:
    """Return Prometheus 2 from Debian's package."""
    prometheus = program("prometheus", "prometheus")
    return PrometheusRelease(_version(prometheus), prometheus, program("promtool", "prometheus"))


def built_prometheus() -> PrometheusRelease:
    """Return Prometheus 3, which `tests/run --full` builds. LLEM_PROMETHEUS3 is its path."""
    prometheus = built_program("prometheus3")
    return PrometheusRelease(_version(prometheus), prometheus, str(Path(prometheus).with_name("promtool")))


def prometheus_releases(*, full: bool = True) -> list[PrometheusRelease]:
    """Return the versions to test: Prometheus 2, and with `full` also Prometheus 3."""
    return [installed_prometheus(), built_prometheus()] if full else [installed_prometheus()]


@cache
def _version(prometheus: str) -> str:
    output = subprocess.run([prometheus, "--version"], capture_output=True, text=True, check=True)
    version = re.search(r"version (\d+\.\d+\.\d+)", output.stdout + output.stderr)
    if version is None:
        raise ServerError(f"{prometheus} --version printed no version: {output.stdout}{output.stderr}")
    return version[1]


class Prometheus(QueryServer):
    """A Prometheus whose blocks and prometheus.yml are in `directory`.

    `config` adds top-level keys to prometheus.yml (global, rule_files, alerting, ...). `args` are added to
    the command line. `release` is the version, by default Prometheus 2.
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
        """Return a Prometheus that holds exactly the samples of an OpenMetrics text, of any age."""
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
        """Write the configuration file. A running server reads it on reload()."""
        # JSON is YAML.
        self._config_file.write_text(json.dumps({"scrape_configs": list(scrape_configs), **(config or {})}))

    def reload(self) -> None:
        """Make the server reload its configuration file. A ServerError contains the reason of a failure."""
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


def scrape_config(
    job: str,
    *targets: Server | str,
    interval: str = "1s",
    path: str = "/metrics",
    params: Mapping[str, Sequence[str]] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return one entry of `scrape_configs`. `targets` are servers or HOST:PORT, `more` other keys."""
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
