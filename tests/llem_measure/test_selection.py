"""What is chosen where, and why not the others: real libraries, each case in a process of its own."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import llem_measure
from llem_core.errors import ConfigError
from llem_core.measurement import EnergyMeasurement
from tests.fake_nvml import Architecture, FakeDriver
from tests.llem_measure.child import ROOT, ask, site_without

AUTO = """
logging.basicConfig(format="LOG %(message)s")
chosen = eb.select_energy_backend("auto")
tell([chosen and chosen.name, isinstance(chosen, eb.EnergyBackend),
      [[c.backend, c.coverage, c.reason] for c in eb.probe_backends()]])
"""


def auto(driver: FakeDriver, site: Path | None = None, **env: str) -> tuple[str | None, dict[str, str]]:
    """What "auto" takes, and why not the others."""
    name, is_backend, candidates = ask(AUTO, {**driver.env, **env}, site)
    assert is_backend == (name is not None)
    assert next((backend for backend, coverage, _ in candidates if coverage == 1), None) == name
    return name, {backend: reason for backend, coverage, reason in candidates if coverage == 0}


def test_auto_is_zeus(steady: FakeDriver) -> None:
    """auto selects zeus if every GPU has an energy counter."""
    assert auto(steady) == ("zeus", {})


def test_without_zeus_auto_is_nvml(steady: FakeDriver, tmp_path: Path) -> None:
    """If zeus is not installed, auto selects nvml. The reason contains the pip command."""
    name, reasons = auto(steady, site_without(tmp_path, "zeus"))
    assert (name, reasons) == ("nvml", {"zeus": "zeus is not installed; pip install 'zeus>=0.13.1'"})


def test_before_volta_auto_is_nvml(steady: FakeDriver) -> None:
    """If a GPU is older than Volta, auto selects nvml: the GPU has no energy counter."""
    steady.gpus[1].architecture = Architecture.PASCAL
    name, reasons = auto(steady)
    assert (name, reasons) == ("nvml", {"zeus": "GPU 1 is older than Volta and has no energy counter"})


def test_without_a_counter_auto_is_nvml(steady: FakeDriver) -> None:
    """If the counter of a visible GPU cannot be read, auto selects nvml. Hidden GPUs do not count."""
    steady.gpus[1].energy_supported = False
    name, reasons = auto(steady)
    assert name == "nvml"
    assert reasons["zeus"].startswith("GPU 1 has no energy counter through Zeus")
    assert auto(steady, CUDA_VISIBLE_DEVICES="0") == ("zeus", {})


def test_without_a_gpu_auto_is_codecarbon(steady: FakeDriver) -> None:
    """Without a driver or a visible GPU, auto selects codecarbon."""
    name, reasons = auto(steady, CUDA_VISIBLE_DEVICES="")
    assert name == "codecarbon"
    assert reasons["nvml"] == "no GPU is visible; CUDA_VISIBLE_DEVICES is set to ''"
    steady.unload()
    name, reasons = auto(steady)
    assert name == "codecarbon"
    assert reasons["zeus"].startswith("NVML cannot be opened: NVML_ERROR_DRIVER_NOT_LOADED")
    assert reasons["nvml"] == reasons["zeus"]


def test_with_nothing_auto_is_none(steady: FakeDriver, tmp_path: Path) -> None:
    """Without libraries and driver, auto selects no backend. One log line has all reasons."""
    steady.unload()
    site = site_without(tmp_path, "zeus", "codecarbon")
    name, reasons = auto(steady, site)
    assert name is None
    assert reasons["codecarbon"] == "codecarbon is not installed; pip install 'codecarbon>=3.3'"
    assert list(reasons) == ["zeus", "nvml", "codecarbon"]


def test_a_backend_named_that_cannot_work_says_why(steady: FakeDriver, tmp_path: Path) -> None:
    """A named backend that is not available is a ConfigError with the reason."""
    program = """
asked = [("zeus", None), ("nvml", None), ("nvml", [1]), ("nvml", [0]), ("nvml", [7]), ("codecarbon", None)]
asked.append(("nvlm", None))
tell([failure(lambda: eb.select_energy_backend(name, gpu_indices=indices)) for name, indices in asked])
"""
    no_power = "backend nvml cannot measure here: the power of GPU 1 cannot be read: NVML_ERROR_NOT_SUPPORTED"
    steady.gpus[1].power_supported = False
    site = site_without(tmp_path, "zeus", "codecarbon")
    assert ask(program, steady.env, site) == [
        "backend zeus cannot measure here: zeus is not installed; pip install 'zeus>=0.13.1'",
        f"{no_power} (Not Supported)",
        f"{no_power} (Not Supported)",
        None,
        "backend nvml cannot measure here: GPU 7 not found: "
        "the number of GPUs is 2, and the first has index 0",
        "backend codecarbon cannot measure here: codecarbon is not installed; pip install 'codecarbon>=3.3'",
        "unknown backend 'nvlm'; known are zeus, nvml, codecarbon",
    ]


def test_zeus_named_where_zeus_cannot_count_says_why(steady: FakeDriver) -> None:
    """zeus is not available if a GPU has no energy counter, even if it is installed."""
    program = """
tell([failure(lambda: eb.select_energy_backend("zeus")), eb.ZeusBackend().is_available(),
      eb.ZeusBackend([0]).is_available()])
"""
    steady.gpus[1].architecture = Architecture.PASCAL
    assert ask(program, steady.env) == [
        "backend zeus cannot measure here: GPU 1 is older than Volta and has no energy counter",
        False,
        True,
    ]


def test_a_zeus_that_cannot_be_imported_says_why(steady: FakeDriver, tmp_path: Path) -> None:
    """If a dependency of zeus is missing, zeus is not available and measure() uses nvml."""
    program = """
with measure() as measured:
    time.sleep(0.1)
tell([failure(eb.ZeusBackend().start_tracking), measured.measurement.backend,
      [[c.backend, c.coverage, c.reason] for c in measured.considered]])
"""
    reason, chosen, considered = ask(program, steady.env, site_without(tmp_path, "httpx"))
    assert reason.startswith("zeus cannot be imported (ModuleNotFoundError: No module named 'httpx'")
    assert chosen == "nvml"
    assert considered == [["zeus", 0, reason], ["nvml", 1, "reads the power of GPU 0, 1"]]


def test_zeus_counts_without_its_monitor(steady: FakeDriver, tmp_path: Path) -> None:
    """ZeusBackend needs zeus.device only, not ZeusMonitor, which imports scikit-learn."""
    program = "tell(window(eb.ZeusBackend(), 0.5))"
    measured = ask(program, steady.env, site_without(tmp_path, "sklearn", "scikit_learn"))
    assert measured["per_gpu_j"].keys() == {"0", "1"}


def test_a_gpu_that_hangs_stops_no_choice(steady: FakeDriver) -> None:
    """If a GPU hangs, auto selects no backend. Only the first one waits for the driver's timeout."""
    steady.gpus[1].hung = True
    program = """
import io
log = io.StringIO()
logging.basicConfig(stream=log, format="%(message)s")
codecarbon = eb.CodeCarbonBackend(gpu_indices=[0], driver_timeout_s=30)
tell([eb.select_energy_backend("auto", driver_timeout_s=0.3), log.getvalue(), failure(codecarbon.check)])
"""
    hangs = "GPU 1 hangs: a driver call has not returned for {} s; see dmesg"
    first, later = hangs.format(0.3), hangs.format(2)
    reasons = f"zeus: {first}; nvml: {later}; codecarbon: {later}"
    assert ask(program, steady.env) == [None, f"no energy backend works here: {reasons}\n", later]


def test_none_is_none_and_costs_no_library() -> None:
    """With "none", nothing is probed or logged, and no library is imported."""
    program = """
import logging, sys
before = set(sys.modules)
import llem_measure.block, llem_measure.power_thermal
import llem_measure as eb
records = []
logging.getLogger().addFilter(records.append)
print([eb.select_energy_backend(None), eb.select_energy_backend("none"), records])
roots = {name.partition('.')[0] for name in set(sys.modules) - before}
print(sorted(roots - sys.stdlib_module_names - {'llem_core', 'llem_measure'}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT / "exporter")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[None, None, []]\n[]\n"


def test_what_is_public() -> None:
    """__all__ is sorted, and all names exist."""
    assert llem_measure.__all__ == sorted(llem_measure.__all__)
    assert all(hasattr(llem_measure, name) for name in llem_measure.__all__)
    assert llem_measure.EnergyMeasurement is EnergyMeasurement


class Custom:
    """A user's own backend."""

    def __init__(self, gpu_indices: list[int] | None = None) -> None:
        self.gpu_indices = gpu_indices

    @property
    def name(self) -> str:
        return "custom"

    def is_available(self) -> bool:
        return self.gpu_indices != [1]

    def start_tracking(self) -> float:
        return 0.0

    def stop_tracking(self, tracker: Any) -> EnergyMeasurement:
        raise AssertionError(f"nothing here stops {tracker}")


def test_a_registered_backend_is_taken_by_name() -> None:
    """A registered backend is listed, gets its arguments, and is checked with is_available()."""
    llem_measure.register_backend("custom-1", Custom)
    assert llem_measure.list_backends() == ["zeus", "nvml", "codecarbon", "custom-1"]
    chosen = llem_measure.select_energy_backend("custom-1", gpu_indices=[0])
    assert isinstance(chosen, Custom)
    assert isinstance(chosen, llem_measure.EnergyBackend)
    assert chosen.gpu_indices == [0]
    with pytest.raises(ConfigError, match="custom-1 cannot measure here: the backend reports"):
        llem_measure.select_energy_backend("custom-1", gpu_indices=[1])


def test_a_name_is_given_once() -> None:
    """Existing backend names, "auto" and "none" cannot be registered."""
    for name in ("zeus", "auto", "none"):
        with pytest.raises(ConfigError, match="already"):
            llem_measure.register_backend(name, Custom)
