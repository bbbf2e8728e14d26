"""The reason of each backend says what it covers, on which GPU, and why it is not used."""

from pathlib import Path

import pytest

from llem_core.backend import Backend, Candidate
from llem_core.errors import ConfigError
from llem_integrator import Request, WindowResult
from llem_integrator.results.choice import Choice, considered
from llem_integrator.results.selection import short_uuids
from tests.llem_integrator.measured import file_of, results_of
from tests.llem_integrator.pages import scraped

FIRST, SECOND = "GPU-aaaaaaaa-1", "GPU-aaaaaaaa-2"
SOME_S = range(0, 61, 5)


def reasons(result: WindowResult) -> dict[str, str]:
    return {str(considered.backend): considered.reason for considered in result.considered}


def test_a_backend_that_covers_every_gpu_alike(tmp_path: Path) -> None:
    """The reasons are the coverage, and that a backend of higher priority is used."""
    (result,) = results_of(file_of(tmp_path, scraped(0), scraped(1)), (40, 80))
    assert reasons(result) == {
        "zeus": "covers 1.0000 of the window on every GPU",
        "nvml": "covers 1.0000 of the window on every GPU; a backend of higher priority is used",
        "codecarbon": "no samples",
    }


def test_the_reason_names_the_gpu_that_is_covered_least(tmp_path: Path) -> None:
    """The GPU has its index and the start of its UUID, as long as it must be to be unique."""
    page = file_of(tmp_path, scraped(0, uuid=FIRST), scraped(1, uuid=SECOND, zeus=False))
    (result,) = results_of(page, (40, 80))
    reason = "no samples for GPU 1 (GPU-aaaaaaaa-2); one backend serves all GPUs of a node"
    assert reasons(result)["zeus"] == reason
    page = file_of(tmp_path, scraped(0, read_late_ms=0), scraped(1, read_late_ms=0, seconds=SOME_S))
    (half,) = results_of(page, (40, 80), request=Request(backend="zeus"))
    assert reasons(half) == {
        "zeus": "covers 0.5000 of the window on GPU 1 (GPU-1); one backend serves all GPUs of a node"
    }


def test_why_a_backend_that_covers_less_is_not_used() -> None:
    """The reason holds also if its mean coverage is higher, and for a total of CodeCarbon."""
    zeus, nvml = Candidate(Backend.ZEUS, 0.99, "z", 0.99), Candidate(Backend.NVML, 0.98, "n", 0.999)
    total = Candidate(Backend.CODECARBON, 0.5, "c")
    _, by_nvml, by_total = considered([Choice(Backend.ZEUS, (zeus, nvml, total), is_split=False)], 0.99)
    assert by_nvml.reason == "n; not used, because it covers less than --min-coverage"
    assert by_total.reason.endswith("less than --min-coverage and cannot divide the total among GPUs")
    (less, _) = considered([Choice(Backend.NVML, (zeus, nvml))], 0.995)
    assert less.reason == "z; the chosen backend has a higher mean coverage"


def test_the_selected_gpus_decide(tmp_path: Path) -> None:
    """GPU 0 is measured by nvml with its neighbour, and by zeus alone. The start of a UUID must be unique."""
    page = file_of(tmp_path, scraped(0, uuid=FIRST), scraped(1, uuid=SECOND, zeus=False))
    requests = [Request(), Request(gpus="0"), Request(gpus=FIRST)]
    assert [results_of(page, (40, 80), request=request)[0].backend for request in requests] == [
        "nvml",
        "zeus",
        "zeus",
    ]
    with pytest.raises(ConfigError, match="'GPU-aaaa' matches several GPUs"):
        results_of(page, (40, 80), request=Request(gpus="GPU-aaaa"))
    assert short_uuids(["GPU-1234567890", "GPU-0987654321"]) == {
        "GPU-1234567890": "GPU-12345678",
        "GPU-0987654321": "GPU-09876543",
    }
