"""Readings that the driver refuses: no permission, not supported."""

import time

import pytest

from tests.fake_nvml import Architecture, FakeDriver
from tests.llem_exporter.faults.pages import (
    AVAILABLE,
    ERRORS,
    GPU_GAUGES,
    INFO,
    NVML,
    PEAK,
    POWER,
    SLOW_GAUGES,
    STAMP,
    SUCCESS,
    ZEUS,
    Begin,
    accounted,
    all_read,
    gone_in_time,
    page_with,
    with_zeus,
)
from tests.llem_exporter.page import history, scrape
from tests.servers import wait_until

DENIED, UNSUPPORTED = "NVML_ERROR_NO_PERMISSION", "NVML_ERROR_NOT_SUPPORTED"


def test_power_that_is_denied_for_a_while(begin: Begin, steady: FakeDriver) -> None:
    """Its gauge goes, an error says why, counter and slow readings are published on; then it is back."""
    exporter = begin()
    with_zeus(exporter)
    before = all_read(exporter)
    steady.gpus[1].denied, fault_s = frozenset({"fields", "power"}), time.monotonic()
    shown = gone_in_time(exporter, fault_s, "1", [POWER])
    time.sleep(1.5)
    shown = scrape(exporter)
    assert shown.value(ERRORS, gpu="1", error=DENIED) >= 10
    assert [shown.value(SUCCESS, collector=name) for name in ("nvml", "zeus")] == [0, 1]
    assert shown.value(ZEUS, gpu="1") > before.value(ZEUS, gpu="1")
    assert shown.value(SLOW_GAUGES[0], gpu="1") == 46
    steady.gpus[1].denied = frozenset()
    back = all_read(exporter)
    assert accounted(steady, before, back, "1") >= 1.4
    assert [accounted(steady, before, back, gpu) for gpu in ("0", "2")] == [0, 0]


def test_a_counter_that_is_denied_for_a_while(begin: Begin, steady: FakeDriver) -> None:
    """Zeus fails and is not available, power goes on without a gap; then the counter is back, complete."""
    exporter = begin()
    with_zeus(exporter)
    before = all_read(exporter)
    steady.gpus[1].denied, fault_s = frozenset({"energy"}), time.monotonic()
    shown = gone_in_time(exporter, fault_s, "1", [ZEUS])
    assert shown.value(ERRORS, gpu="1", error=DENIED) >= 1
    assert [shown.value(SUCCESS, collector=name) for name in ("nvml", "zeus")] == [1, 0]
    assert [shown.value(AVAILABLE, backend=name) for name in ("nvml", "zeus")] == [1, 0]
    time.sleep(1.5)
    steady.gpus[1].denied = frozenset()
    back = all_read(exporter)
    assert accounted(steady, before, back, "1") == 0
    true = steady.exact_joules(1, before.value(STAMP, gpu="1"), back.value(STAMP, gpu="1"))
    assert back.value(ZEUS, gpu="1") - before.value(ZEUS, gpu="1") == pytest.approx(true, abs=2.0)


def test_slow_readings_that_are_denied_for_a_while(begin: Begin, steady: FakeDriver) -> None:
    """They go with the next reading of them, an error and one line say why; power has no gap."""
    exporter = begin()
    with_zeus(exporter)
    before = all_read(exporter)
    steady.gpus[1].denied, fault_s = frozenset({"slow"}), time.monotonic()
    shown = gone_in_time(exporter, fault_s + 0.1, "1", SLOW_GAUGES)
    assert shown.value(ERRORS, gpu="1", error=DENIED) >= 1
    assert shown.value(POWER, gpu="1") == 200.0
    steady.gpus[1].denied = frozenset()
    back = page_with(exporter, SLOW_GAUGES[0], 3)
    assert accounted(steady, before, back, "1") == 0
    assert exporter.log().count("status cannot be read: NVML_ERROR_NO_PERMISSION") == 1
    assert exporter.log().count("status is read again") == 1


def test_a_gpu_that_nobody_may_read_at_the_start(begin: Begin, steady: FakeDriver) -> None:
    """The others are read; the log names the reason; it joins when it may be read."""
    steady.gpus[1].denied = frozenset({"fields", "power", "energy", "slow"})
    exporter = begin()
    shown = with_zeus(exporter, 2)
    assert shown.labels(INFO, gpu="1") == []
    assert shown.value(ERRORS, gpu="1", uuid="", error=DENIED) >= 1
    assert [shown.value(SUCCESS, collector="nvml"), shown.value(AVAILABLE, backend="zeus")] == [0, 0]
    assert f"GPU 1 cannot be opened, and is tried again: GPU 1 cannot be opened: {DENIED}" in exporter.log()
    steady.gpus[1].denied = frozenset()
    assert with_zeus(exporter, 3).value(POWER, gpu="1") == 200.0


def test_power_that_is_denied_at_the_start(begin: Begin, steady: FakeDriver) -> None:
    """There is no power source; the error is counted; when it may be read the source is found."""
    steady.gpus[1].denied = frozenset({"fields", "power"})
    exporter = begin()
    shown = page_with(exporter, ERRORS, gpu="1", error=DENIED)
    assert shown.value(INFO, gpu="1", power_source="none") == 1
    assert shown.get(NVML, gpu="1") is None
    steady.gpus[1].denied = frozenset()
    assert page_with(exporter, POWER, 3).value(INFO, gpu="1", power_source="instant") == 1


def test_before_volta_there_is_power_and_no_counter(begin: Begin, steady: FakeDriver) -> None:
    """Zeus is not available, which is no failure; nvml is selected; power is read the old way."""
    for gpu in steady.gpus:
        gpu.architecture = Architecture.PASCAL
    exporter = begin()
    wait_until(lambda: exporter.log().count("has no energy counter") == 3, "zeus's answer")
    shown = scrape(exporter)
    assert [shown.value("llem_backend_selected", backend=name) for name in ("zeus", "nvml")] == [0, 1]
    assert shown.labels(SUCCESS, collector="zeus") == []
    assert shown.get(ZEUS, gpu="0") is None
    assert {labels["power_source"] for labels in shown.labels(INFO)} == {"legacy"}
    assert shown.value(POWER, gpu="0") == 100.0


def test_without_power_there_is_still_the_counter(begin: Begin, steady: FakeDriver) -> None:
    """Zeus is published with its time; a GPU that reads neither says who it is, and its errors."""
    for gpu in steady.gpus[1:]:
        gpu.power_supported = gpu.instant_supported = False
    steady.gpus[2].energy_supported = False
    exporter = begin()
    shown = page_with(exporter, ZEUS, gpu="1")
    assert shown.get(POWER, gpu="1") is None
    assert shown.get(NVML, gpu="1") is None
    assert shown.value(STAMP, gpu="1") > 0
    assert ("llem_gpu_zeus_energy_trace_joules_total", "1") in history(exporter)
    assert [shown.get(name, gpu="2") for name in (POWER, NVML, ZEUS, STAMP)] == [None] * 4
    assert shown.value(INFO, gpu="2", power_source="none") == 1
    assert shown.value(ERRORS, gpu="2", error=UNSUPPORTED) >= 1
    assert shown.value(AVAILABLE, backend="zeus") == 0
    steady.gpus[1].power_supported = steady.gpus[1].instant_supported = True
    shown = page_with(exporter, POWER, gpu="1")
    assert shown.value(INFO, gpu="1", power_source="instant") == 1


def test_readings_that_are_supported_no_more(begin: Begin, steady: FakeDriver) -> None:
    """Power and counter both: their gauges go, the error is counted, and they are back with the support."""
    exporter = begin()
    with_zeus(exporter)
    before = all_read(exporter)
    fake = steady.gpus[1]
    fake.power_supported = fake.energy_supported = False
    shown = gone_in_time(exporter, time.monotonic(), "1", [POWER, PEAK, STAMP])
    assert shown.value(ERRORS, gpu="1", error=UNSUPPORTED) >= 1
    fake.power_supported = fake.energy_supported = True
    back = all_read(exporter)
    assert accounted(steady, before, back, "1") >= 0.9
    assert [accounted(steady, before, back, gpu) for gpu in ("0", "2")] == [0, 0]


@pytest.mark.parametrize("why", ["denied", "unsupported"])
def test_slow_readings_go_on_where_nothing_else_is_read(begin: Begin, steady: FakeDriver, why: str) -> None:
    """No power and no counter: temperature, memory and use are still shown, on every page, and new."""
    fake = steady.gpus[1]
    if why == "denied":
        fake.denied = frozenset({"fields", "power"})
    else:
        fake.power_supported = fake.instant_supported = False
    exporter = begin("--no-collector.zeus")
    page_with(exporter, SLOW_GAUGES[0], gpu="1")
    until_s = time.monotonic() + 2.5
    while time.monotonic() < until_s:
        shown = scrape(exporter)
        assert [len(shown.labels(name, gpu="1")) for name in SLOW_GAUGES] == [1] * len(SLOW_GAUGES)
        assert [shown.get(name, gpu="1") for name in (POWER, PEAK, STAMP, NVML)] == [None] * 4
    fake.temperature_celsius, changed_s = 71, time.monotonic()
    wait_until(lambda: scrape(exporter).get(SLOW_GAUGES[0], gpu="1") == 71, "a new temperature")
    fake.lost, fault_s = True, time.monotonic()
    gone_in_time(exporter, fault_s, "1", GPU_GAUGES)
    assert fault_s - changed_s < 3
