"""The short form of tests/bench/bench_exporter.py: what does not depend on how busy the machine is."""

from tests.bench.bench_exporter import bench_exporter
from tests.fake_nvml import FakeDriver


def test_memory_calls_and_a_pulled_backlog(driver: FakeDriver) -> None:
    """Memory and calls are within the targets; lateness and speed within several times theirs."""
    rows = {row.what: row for row in bench_exporter(driver, 3, zeus=False)}
    for what, row in rows.items():
        if what.endswith((": PSS", "tick")):
            assert row.met, row
        if "lines" in what:
            assert float(row.figure.split()[0]) > 0.2, row
        if "lateness" in what:
            p99_ms = float(row.figure.split("p99 <= ")[1].split(",")[0])
            assert p99_ms <= 20, row
    assert len(rows) == 7
