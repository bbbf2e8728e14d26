"""measure(): a with-block's energy, or why there is none."""

from pathlib import Path

import pytest

from tests.fake_nvml import FakeDriver
from tests.llem_measure.child import ask, site_without


def test_a_block_is_measured_by_what_works(steady: FakeDriver) -> None:
    """measure() uses Zeus for each visible GPU. The measurement is set when the block ends."""
    program = """
with measure() as measured:
    before = measured.measurement
    time.sleep(0.3)
tell([before, shown(measured.measurement), measured.duration_sec, [w.code for w in measured.warnings],
      [[c.backend, c.usable] for c in measured.considered]])
"""
    before, measured, duration, codes, considered = ask(program, steady.env)
    assert before is None
    assert (measured["backend"], measured["per_gpu_j"].keys()) == ("zeus", {"0", "1"})
    assert 0.3 <= duration <= measured["duration"]
    assert codes == measured["codes"] == ["short_window"]
    assert considered == [["zeus", True]]


def test_a_block_that_fails_is_measured_too(steady: FakeDriver) -> None:
    """The block's own exception is raised, even if the measurement fails at the end."""
    program = """
told = []
for backend in (eb.NVMLBackend(1, sample_interval_ms=1000), eb.ZeusBackend([1])):
    try:
        with measure(backend) as measured:
            time.sleep(0.3)
            raise ValueError("mine")
    except ValueError as exc:
        told.append([str(exc), shown(measured.measurement)["total_j"] / measured.measurement.duration_sec])

class Failing(eb.NVMLBackend):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer
    def stop_tracking(self, tracker):
        return self.answer()

def gone():
    raise eb.ConfigError("gone")

for answer in (gone, lambda: {}["key"], lambda: None):
    try:
        with measure(Failing(answer)) as measured:
            raise ValueError("mine")
    except ValueError as exc:
        told.append([str(exc), measured.measurement, measured.duration_sec > 0])
        told[-1] += [w.message for w in measured.warnings]
tell(told)
"""
    *of_backends, failing, buggy, empty = ask(program, steady.env)
    assert of_backends == [["mine", pytest.approx(300, rel=0.3)]] * 2
    assert failing == ["mine", None, True, "energy was not measured: nvml: gone"]
    assert buggy == ["mine", None, True, "energy was not measured: nvml: KeyError: 'key'"]
    assert empty[:3] == ["mine", None, True]
    assert empty[3].startswith("energy was not measured: nvml: AttributeError")


def test_where_nothing_works_the_block_runs_and_is_timed(steady: FakeDriver, tmp_path: Path) -> None:
    """If no backend is available, there is no measurement, and a warning lists all reasons."""
    steady.unload()
    program = """
with measure() as measured:
    time.sleep(0.1)
tell([measured.measurement, measured.duration_sec, [[w.code, w.message] for w in measured.warnings],
      [c.backend for c in measured.considered]])
"""
    measurement, duration, warnings, considered = ask(
        program, steady.env, site_without(tmp_path, "zeus", "codecarbon")
    )
    assert measurement is None
    assert duration >= 0.1
    [[code, message]] = warnings
    assert code == "energy_unavailable"
    for part in (
        "zeus: zeus is not installed",
        "nvml: NVML cannot be opened",
        "codecarbon: codecarbon is not",
    ):
        assert part in message
    assert considered == ["zeus", "nvml", "codecarbon"]


def test_off_is_silent_and_a_name_must_work(steady: FakeDriver) -> None:
    """None only times the block. A named backend that is not available raises before the block runs."""
    program = """
ran = []
def refused():
    with measure("nvml", gpu_indices=[5]):
        ran.append(1)
with measure(None) as off:
    pass
tell([off.measurement, off.warnings, off.duration_sec >= 0, failure(refused), ran])
"""
    measurement, warnings, timed, refusal, ran = ask(program, steady.env)
    assert (measurement, warnings, timed, ran) == (None, [], True, [])
    reason = "GPU 5 not found: the number of GPUs is 2, and the first has index 0"
    assert refusal == f"backend nvml cannot measure here: {reason}"


def test_a_gpu_that_hangs_does_not_stop_the_block(steady: FakeDriver) -> None:
    """If a GPU does not answer, auto tries all backends, each within the timeout, and the block runs."""
    steady.gpus[1].hung = True
    program = """
with measure(driver_timeout_s=0.2) as measured:
    pass
tell([[c.backend, c.reason] for c in measured.considered])
os._exit(0)
"""
    reasons = dict(ask(program, steady.env))
    assert list(reasons) == ["zeus", "nvml", "codecarbon"]
    assert all(reason.startswith("GPU 1 hangs: ") for reason in reasons.values())
