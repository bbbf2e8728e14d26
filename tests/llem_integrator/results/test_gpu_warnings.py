"""Warnings say how much is missing or wrong, and what to do."""

from pathlib import Path

from llem_integrator import Request, WindowResult
from llem_integrator.report.table import remarks
from tests.llem_integrator.measured import file_of, results_of
from tests.llem_integrator.pages import scraped, trace


def messages(result: WindowResult) -> dict[str, str]:
    return {str(warning.code): warning.message for warning in result.warnings}


def test_gaps_and_missing_samples(tmp_path: Path) -> None:
    """The warnings have the seconds, the longest gap, and the option that helps."""
    (result,) = results_of(file_of(tmp_path, scraped(0, read_late_ms=0)), (100, 125))
    gap = "5.000 s of 25.000 s are not covered (longest gap 5.000 s)"
    assert messages(result) == {
        "sample_gap": f"{gap}, and the joules exclude them",
        "newest_missing": "the newest sample of this GPU is 5.000 s before the end of the window "
        "(the file or the GPU's data ends there; for a live server try again later, or use --wait)",
    }
    assert remarks(result)[0].startswith(f"warning: GPU 0 (GPU-0): {gap}")


def test_backends_that_disagree(tmp_path: Path) -> None:
    """The warning has the joules of both."""
    samples = [(ms, 200.0) for ms in range(0, 120_000, 100)]
    (result,) = results_of(file_of(tmp_path, scraped(0), trace(0, samples)), (40, 60))
    text = "the backends differ by more than 5 %: zeus 2000.0 J, nvml 4000.0 J"
    assert messages(result)["backends_disagree"].startswith(text)


def test_emissions_that_are_not_known(tmp_path: Path) -> None:
    """Without CodeCarbon on the node, the warning names the option that gives emissions."""
    (result,) = results_of(file_of(tmp_path, scraped(0)), (40, 60), request=Request(emissions=True))
    assert messages(result)["emissions_unavailable"].endswith("iso-code (use --carbon-intensity)")
