"""A short version of tests/bench/bench_storage.py: samples as the exporter writes them, in real blocks."""

import random
from array import array
from math import nan
from pathlib import Path

import pytest

from llem_exporter.history.page import trace_chunks
from llem_measure.sampling.devices import DeviceInfo
from llem_measure.sampling.ring import Samples
from llem_measure.sampling.validation import rounded
from tests.bench.bench_storage import COUNTER_START_JOULES, KINDS, stored
from tests.servers import Prometheus, PrometheusRelease

T0_MS = 1_795_507_546_000
SAMPLES = 6000


@pytest.mark.parametrize("kind", KINDS)
def test_a_noisy_sample_costs_few_bytes(
    tmp_path: Path, prometheus_release: PrometheusRelease, kind: str
) -> None:
    """Ten minutes of noise in 1/8 W and its counter, on whole ticks, stay within the bytes per sample."""
    rng = random.Random(20261124)
    times: array[float] = array("d")
    watts, joules = array("d"), array("d")
    counter = COUNTER_START_JOULES
    for number in range(SAMPLES):
        power = rounded(rng.gauss(300, 15), 8) or 0.0
        counter += power / 10
        times.append(T0_MS + 100 * number)
        watts.append(power if kind == "watts" else nan)
        joules.append(rounded(counter, 8) or 0.0 if kind == "joules" else nan)
    page = "".join(
        trace_chunks([(DeviceInfo(0, "GPU-noise", ""), Samples(times, watts, joules))], openmetrics=True)
    )
    prometheus = Prometheus.on_blocks(tmp_path, page + "# EOF\n", release=prometheus_release)
    found = stored(prometheus.data)
    assert found.samples == SAMPLES
    assert found.bytes_per_sample <= KINDS[kind][1]
