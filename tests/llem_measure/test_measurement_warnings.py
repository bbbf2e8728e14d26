"""The warnings of a measurement."""

from collections.abc import Iterable

import pytest

from llem_core.measurement import MeasurementWarning
from llem_measure.backends import measurement_warnings
from llem_measure.nvml.discovery import Gpu

GPU = Gpu(3, "GPU-3", mig=True)


@pytest.mark.parametrize(
    ("warnings", "remedy"),
    [
        (measurement_warnings.of_window(0.5), "measure 5 s or more"),
        (measurement_warnings.of_gpu(GPU, False, []), "nvidia-smi -pm 1"),
        (measurement_warnings.of_gpu(GPU, True, []), "run nothing else"),
        (
            measurement_warnings.of_gpu(Gpu(3, "GPU-3"), None, [40.0, None, 60.0]),
            "compare runs at equal temperatures",
        ),
        (measurement_warnings.of_samples(GPU, 3, 0.0, 0.0), "measure longer"),
        (measurement_warnings.of_samples(GPU, 300, 2.0, 1.0), "measure again"),
        ([measurement_warnings.lost(GPU, "reason")], "see dmesg"),
    ],
)
def test_a_warning_says_what_to_do(warnings: Iterable[MeasurementWarning], remedy: str) -> None:
    """Each message has a remedy, and names the GPU that it concerns."""
    warning = next(iter(warnings))
    assert remedy in warning.message
    assert warning.uuid is None or warning.message.startswith("GPU 3")
