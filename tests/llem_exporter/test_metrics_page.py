"""The whole page: equal to the golden file, and valid by promtool."""

import subprocess

from llem_core.metrics import METRICS_PAGE
from tests.fake_nvml import FakeDriver
from tests.llem_exporter.conftest import StartExporter
from tests.llem_exporter.golden_page import GOLDEN, render
from tests.servers import program, wait_until


def test_the_page_of_a_replayed_trace_is_golden() -> None:
    """The page equals the golden file byte for byte. golden_page.py describes how to regenerate it."""
    assert render() == GOLDEN.read_text()


def test_promtool_finds_nothing_wrong(start: StartExporter, driver: FakeDriver) -> None:
    """`promtool check metrics` accepts the page of a trace and the page of GPUs with all collectors."""
    exporter = start(driver=driver)
    awaited = ("llem_gpu_zeus_energy_joules_total{", "llem_codecarbon_energy_joules_total{")
    page = wait_until(
        lambda: text if all(name in (text := exporter.metrics()) for name in awaited) else "", "all families"
    )
    for text in (render(), page):
        checked = subprocess.run(
            [program("promtool", "prometheus"), "check", "metrics"],
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_help_and_type_are_the_specs() -> None:
    """Each family of the golden page has the help and the kind of its spec."""
    page = render()
    for spec in METRICS_PAGE:
        if f"{spec.name}" in page:
            assert f"# HELP {spec.name} {spec.help}\n# TYPE {spec.name} {spec.kind}\n" in page
