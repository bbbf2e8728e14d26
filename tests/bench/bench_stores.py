"""How fast one window is integrated out of each store that can hold the samples, and out of files of them.

python tests/bench/bench_stores.py [--gpus 8] [--hours 2]

The same samples (tests/bench/clusters.py) lie in a Prometheus (and in that of $LLEM_PROMETHEUS3), a
VictoriaMetrics, an exporter's history page and two files; all must give the same joules, to 1e-9. Times are
medians of five runs in turns, in one warm process, with the opening of the source. prometheus-api-client with
numpy is one of them. All read the whole trace, as backend nvml does. JSON must reach 1.5 M samples/s, and
three times the peer.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from llem_core.backend import Backend
from llem_integrator.http.client import Http
from llem_integrator.integration import integrate
from llem_integrator.results.request import Request
from llem_integrator.stores import Source, open_source
from llem_integrator.stores.prometheus import PrometheusSource
from tests.bench.bench_integrator import EDGE_S, RUNS, by_api_client, nvml_joules, window
from tests.bench.clusters import T0_MS, Cluster
from tests.llem_integrator.stand_ins import Asked, Reply, StandIn
from tests.llem_integrator.stores.test_stores_agree import in_ms
from tests.llem_integrator.stores.test_victoriametrics import put_text
from tests.llem_integrator.text.dumps import dumped
from tests.servers import Prometheus, PrometheusRelease, VictoriaMetrics, prometheus_releases

WORST: float = 1e-9
PEER = "prometheus-api-client + numpy"
JSON_RATE = 1.5e6
JSON_TIMES_PEER = 3
Open = Callable[[], Source]


def _by_json(url: str) -> Source:
    return PrometheusSource(Http(url), remote_read=False)


def opened(cluster: Cluster, folder: Path, stack: ExitStack) -> tuple[dict[str, Open], Prometheus]:
    """Every way in, by name, and the first Prometheus."""
    text = "".join([*cluster.text(T0_MS, cluster.end_ms), "# EOF\n"])
    (folder / "page.om").write_text(text)

    def exporter(asked: Asked) -> Reply:
        return Reply(body=text.encode() if asked.path.startswith("/history") else b"llem-exporter")

    def prometheus(release: PrometheusRelease) -> Prometheus:
        return stack.enter_context(Prometheus.on_blocks(folder / release.version, text, release=release))

    releases = prometheus_releases()
    servers = [prometheus(release) for release in releases]
    (folder / "dump").write_bytes(dumped(releases[0], folder / releases[0].version / "data"))
    victoria = stack.enter_context(VictoriaMetrics(folder))
    put_text(victoria, in_ms(text))
    found: dict[str, Open] = {}
    for release, server in zip(releases, servers, strict=True):
        found[f"Prometheus {release.version}, remote read"] = partial(open_source, server.url)
        found[f"Prometheus {release.version}, JSON"] = partial(_by_json, server.url)
    found["VictoriaMetrics"] = partial(open_source, victoria.url)
    found["an exporter's history page"] = partial(open_source, stack.enter_context(StandIn(exporter)).url)
    found["OpenMetrics file"] = partial(open_source, str(folder / "page.om"))
    found["promtool's dump"] = partial(open_source, str(folder / "dump"))
    return found, servers[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row per store. Return 1 if joules differ or JSON is too slow."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--hours", type=int, default=2)
    chosen = parser.parse_args(arguments)
    cluster = Cluster(chosen.gpus, chosen.hours)
    asked = window(EDGE_S, cluster.hours * 3600 - EDGE_S)
    samples = cluster.gpus * round(asked.duration_s * 10)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        sources, prometheus = opened(cluster, Path(folder), stack)
        times: dict[str, list[float]] = {name: [] for name in (*sources, PEER)}
        joules: dict[str, dict[str, float]] = {}
        for _ in range(RUNS):
            for name, open_it in sources.items():
                started = time.perf_counter()
                (result,) = integrate(open_it(), [asked], Request(backend=Backend.NVML))
                times[name].append(time.perf_counter() - started)
                joules[name] = nvml_joules(result)
            started = time.perf_counter()
            joules[PEER], _ = by_api_client(prometheus, asked, cluster.gpus)
            times[PEER].append(time.perf_counter() - started)
    print(f"{samples / 1e6:.2f} M samples of {cluster.gpus} GPUs, {cluster.hours} h")
    missed = False
    rates = {name: samples / statistics.median(taken) for name, taken in times.items()}
    for name, rate in rates.items():
        apart = max(abs(joules[name][uuid] / right - 1) for uuid, right in joules[PEER].items())
        slow = name.endswith("JSON") and rate < max(JSON_RATE, JSON_TIMES_PEER * rates[PEER])
        missed = missed or slow or apart > WORST
        print(
            f"{name:<36} {rate / 1e6:6.2f} M/s {rate / rates[PEER]:6.1f} x the peer"
            f"   joules apart {apart:.0e}{'   MISSED' if slow else ''}"
        )
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
