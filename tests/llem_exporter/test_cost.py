"""The short form of tests/bench/bench_exporter.py: what does not depend on how busy the machine is."""

from tests.bench.bench_exporter import NVML_ONLY, bench_idle, bench_pulled
from tests.fake_nvml import FakeDriver


def test_memory_and_calls(driver: FakeDriver) -> None:
    """Memory and NVML calls are within their targets."""
    rows = {row.what.split(": ")[1]: row for row in bench_idle(driver, 3, NVML_ONLY)}
    assert rows["PSS"].met, rows["PSS"]
    assert rows["NVML calls per GPU and tick"].met, rows["NVML calls per GPU and tick"]


def test_a_pulled_backlog(driver: FakeDriver) -> None:
    """Lateness and speed are within several times their targets, on however busy a machine."""
    lateness, _, speed = bench_pulled(driver, 3, NVML_ONLY)
    assert float(lateness.figure.split("p99 <= ")[1].split(",")[0]) <= 50, lateness
    assert float(speed.figure.split()[0]) > 0.2, speed
