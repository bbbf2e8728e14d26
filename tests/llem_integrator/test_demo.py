"""--demo: what it measures, beside what the trace that it replays holds."""

import pytest

from llem_integrator import Request, demo


@pytest.mark.full
def test_the_demo_measures_what_its_trace_holds() -> None:
    """The bounds contain the exact joules of the trace."""
    _, result, said = demo.run(Request(), lambda _: None)
    assert "replayed trace" in said
    assert len(result.gpus) == 2
    for gpu in result.gpus:
        assert gpu.joules is not None
        assert gpu.joules_low is not None
        assert gpu.joules_high is not None
        assert gpu.exact_j is not None
        assert gpu.joules_low <= gpu.exact_j <= gpu.joules_high
        # Samples are late on a busy machine, so that only the bounds are exact.
        assert gpu.joules == pytest.approx(gpu.exact_j, rel=0.05)
