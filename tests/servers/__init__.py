"""Real servers for tests, on loopback. Each server has its own file.

with Exporter(args=["--replay", "trace.csv"]) as exporter:
    with Prometheus(tmp_path, scrape_configs=[scrape_config("llem", exporter)]) as prometheus:
        prometheus.wait_for("llem_gpu_power_watts")
"""

from tests.servers.alertmanager import Alertmanager
from tests.servers.cortex import Cortex
from tests.servers.exporter import Exporter
from tests.servers.process import Server, ServerError, free_port, program, wait_until
from tests.servers.prometheus import (
    Prometheus,
    PrometheusRelease,
    installed_prometheus,
    prometheus_releases,
    scrape_config,
)
from tests.servers.pushgateway import Pushgateway
from tests.servers.query import QueryServer
from tests.servers.thanos import ThanosQuerier, ThanosSidecar
from tests.servers.victoriametrics import VictoriaMetrics

__all__ = [
    "Alertmanager",
    "Cortex",
    "Exporter",
    "Prometheus",
    "PrometheusRelease",
    "Pushgateway",
    "QueryServer",
    "Server",
    "ServerError",
    "ThanosQuerier",
    "ThanosSidecar",
    "VictoriaMetrics",
    "free_port",
    "installed_prometheus",
    "program",
    "prometheus_releases",
    "scrape_config",
    "wait_until",
]
