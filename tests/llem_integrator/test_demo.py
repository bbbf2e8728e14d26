"""--demo: the measurement of a replayed trace."""

import pytest

from llem_integrator import Request, demo


@pytest.mark.full
def test_the_demo_measures_its_trace() -> None:
    """Without a GPU, the demo measures the two GPUs of the packaged trace by both backends."""
    _, window, result, measured = demo.run(Request(), lambda _: None)
    assert "replayed trace" in measured
    assert (result.start, result.end) == (window.start_us / 1e6, window.end_us / 1e6)
    assert len(result.gpus) == 2
    for gpu in result.gpus:
        assert gpu.joules is not None
        assert gpu.joules_low is not None
        assert gpu.joules_high is not None
        assert gpu.joules_low <= gpu.joules <= gpu.joules_high
        # They agree, except that power samples are late on a busy machine.
        assert gpu.joules_by_backend["zeus"] == pytest.approx(gpu.joules_by_backend["nvml"], rel=0.05)
