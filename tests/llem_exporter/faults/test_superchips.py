"""Superchips of several kinds in one node: each joule is counted once, by a counter of known scope."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from llem_core import metrics
from llem_measure.sampling.counter.scope import DECISION_SECONDS
from tests.fake_nvml import FakeDriver, constant
from tests.llem_exporter.faults.pages import (
    AVAILABLE,
    GPU_GAUGES,
    INFO,
    NVML,
    POWER,
    SELECTED,
    STAMP,
    TOTAL,
    ZEUS,
    accounted,
    counted_error,
    page_when,
    page_without,
    rise,
)
from tests.llem_exporter.page import MetricsPage, history
from tests.servers import Exporter

MODULE_POWER = metrics.GPU_MODULE_POWER.name
WATTS = (100.0, 200.0, 300.0, 400.0, 500.0, 120.0)
COUNTER_OF_GPU, COUNTER_OF_MODULE, GH200, GB10 = ("0", "1"), ("2", "3"), "4", "5"
"""Two modules of two GPUs whose counters count the GPU or the module, and two modules of one GPU."""

OWN_COUNTERS, MODULE_COUNTERS = {*COUNTER_OF_GPU, GB10}, {*COUNTER_OF_MODULE, GH200}


@dataclass(frozen=True)
class Recording:
    """A page once all scopes are known, one a second later, and the traces from the start."""

    driver: FakeDriver
    first: MetricsPage
    last: MetricsPage
    traces: dict[tuple[str, str], list[tuple[int, float]]]


@pytest.fixture(scope="module")
def superchips(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeDriver]:
    """Six GPUs on four modules. GPUs 2 and 3 have no serial number, so that topology groups them."""
    with FakeDriver(tmp_path_factory.mktemp("driver"), gpus=6) as driver:
        for gpu, module, watts in zip(driver.gpus, (0, 0, 1, 1, 2, 3), WATTS, strict=True):
            gpu.set_load(constant(watts))
            gpu.module = module
        for module, cpu_watts in enumerate((135.0, 135.0, 80.0, 20.0)):
            driver.modules[module].cpu_watts = cpu_watts
        for index in MODULE_COUNTERS:
            driver.gpus[int(index)].energy_scope = "module"
        driver.gpus[2].serial = driver.gpus[3].serial = None
        driver.gpus[int(GB10)].module_power_supported = False
        yield driver


@pytest.fixture(scope="module")
def exporter(superchips: FakeDriver) -> Iterator[Exporter]:
    """An exporter with Zeus."""
    with Exporter(env=superchips.env, args=["--no-collector.codecarbon"]) as exporter:
        yield exporter


@pytest.fixture(scope="module")
def recording(superchips: FakeDriver, exporter: Exporter) -> Recording:
    """Wait until the sources of energy are known."""
    first = page_when(exporter, lambda page: len(page.labels(TOTAL)) == len(WATTS), "all sources")
    last = page_when(exporter, lambda page: rise(first, page, STAMP, "0") >= 1, "a second")
    return Recording(superchips, first, last, history(exporter))


def test_power_is_each_gpus_own_and_a_modules_is_there_once(recording: Recording) -> None:
    """The sum over all GPUs has no watt twice. A GB10 has no power of a module."""
    page = recording.last
    assert [page.value(POWER, gpu=gpu) for gpu in "012345"] == list(WATTS)
    modules = [page.labels(INFO, gpu=gpu)[0]["module"] for gpu in "024"]
    assert [page.value(MODULE_POWER, module=module) for module in modules] == [435.0, 835.0, 580.0]
    assert len(page.labels(MODULE_POWER)) == 3


def test_the_info_names_the_module_by_serial_number_or_by_address(recording: Recording) -> None:
    """GPUs of one module have one name, also where the serial number is not supported."""
    page, gpus = recording.last, recording.driver.gpus
    modules = [page.labels(INFO, gpu=gpu)[0]["module"] for gpu in "012345"]
    address = page.labels(INFO, gpu="2")[0]["pci_bus_id"]
    assert modules == [gpus[0].serial, gpus[0].serial, address, address, gpus[4].serial, ""]
    assert {labels["power_scope"] for labels in page.labels(INFO)} == {"gpu"}


def test_the_info_says_what_the_counter_counts(recording: Recording) -> None:
    """The scope of a counter is what its slope fits. A GPU without power of a module needs no comparison."""
    scopes = {labels["gpu"]: labels["energy_scope"] for labels in recording.last.labels(INFO)}
    assert scopes == {**dict.fromkeys(OWN_COUNTERS, "gpu"), **dict.fromkeys(MODULE_COUNTERS, "module")}

    def waited_s(gpu: str) -> float:
        power, counter = (
            recording.traces[spec.name, gpu] for spec in (metrics.GPU_POWER_TRACE, metrics.GPU_ZEUS_TRACE)
        )
        return (counter[0][0] - power[0][0]) / 1000

    assert min(waited_s(gpu) for gpu in COUNTER_OF_GPU) > DECISION_SECONDS > waited_s(GB10)


def test_counters_of_a_module_are_withheld(recording: Recording) -> None:
    """Only counters of one GPU are published, so zeus cannot measure every GPU, and nvml is selected."""
    page = recording.last
    assert {labels["gpu"] for labels in page.labels(ZEUS)} == OWN_COUNTERS
    assert {gpu for name, gpu in recording.traces if name == metrics.GPU_ZEUS_TRACE.name} == OWN_COUNTERS
    assert [page.value(AVAILABLE, backend=name) for name in ("zeus", "nvml")] == [0, 1]
    assert page.value(SELECTED, backend="nvml") == 1


def test_no_joule_is_counted_twice(recording: Recording) -> None:
    """Every counter of a GPU rises by its own exact joules, whatever the source."""
    driver, first, last = recording.driver, recording.first, recording.last
    for gpu in "012345":
        accounted(driver, first, last, gpu)
        source, same = ("zeus", ZEUS) if gpu in OWN_COUNTERS else ("nvml", NVML)
        assert last.value(TOTAL, gpu=gpu, source=source) == last.value(same, gpu=gpu)
    assert [counted_error(driver, first, last, gpu) for gpu in sorted(OWN_COUNTERS)] == [0.0] * 3


@pytest.mark.usefixtures("recording")
def test_any_gpu_of_a_module_shows_its_power(superchips: FakeDriver, exporter: Exporter) -> None:
    """If one GPU of a module is lost, the other one still reads the module. It is gone with the last GPU."""
    first, second = superchips.gpus[:2]
    second.lost = True
    page = page_without(exporter, *GPU_GAUGES, gpu="1")
    assert page.value(MODULE_POWER, module=second.serial) == 435.0
    first.lost = True
    page_without(exporter, MODULE_POWER, module=second.serial)
