"""Windows of ZeusBackend and NVMLBackend on the fake driver, whose true joules are known."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.fake_nvml import Architecture, FakeDriver
from tests.llem_exporter.energy_backends.child import Child, ask

# Two GPUs a window, windows begun 0.2 s apart, all open at once.
OVERLAPPED = """
count, seconds = 8, 3.0
kinds = (eb.ZeusBackend, eb.NVMLBackend)
backends = [kind(gpu_indices=[2 * n, 2 * n + 1]) for n in range(count) for kind in kinds]
eb.ZeusBackend().start_tracking()  # its import takes seconds
begun, trackers = time.monotonic(), []
for n, backend in enumerate(backends):
    trackers.append(backend.start_tracking())
    time.sleep(max(0.0, begun + 0.1 * (n + 1) - time.monotonic()))
answers = []
for n, (backend, tracker) in enumerate(zip(backends, trackers)):
    time.sleep(max(0.0, begun + 0.1 * n + seconds - time.monotonic()))
    answers.append(shown(backend.stop_tracking(tracker)))
tell(answers)
"""


def errors_of(driver: FakeDriver, measured: dict[str, Any]) -> list[float]:
    """Each GPU's error against the true joules of the very window, which must lie in its bounds."""
    errors = []
    for gpu, joules in measured["per_gpu_j"].items():
        exact = driver.exact_joules(int(gpu), measured["start"], measured["end"])
        low, high = measured["bounds_j"][gpu]
        assert low <= joules <= high
        assert low <= exact <= high
        errors.append(abs(joules / exact - 1))
    return errors


def test_windows_are_exact_within_their_bounds(tmp_path: Path) -> None:
    """Overlapped windows of both: nothing lost at an edge, and the true joules inside the bounds.

    This is the short form, 16 windows of 3 s; tests/bench/bench_backends.py has the full one.
    """
    with FakeDriver(tmp_path, gpus=16) as driver:
        answers = ask(OVERLAPPED, driver.env)
        errors: dict[str, list[float]] = {"zeus": [], "nvml": []}
        for answer in answers:
            errors[answer["backend"]] += errors_of(driver, answer)
            assert answer["coverage"] == 1
            assert 2.8 <= answer["duration"] <= 3.2
            assert answer["end"] - answer["start"] == pytest.approx(answer["duration"])
            assert answer["total_j"] == pytest.approx(sum(answer["per_gpu_j"].values()))
            assert answer["codes"] == ["short_window"]
    assert [len(errors["zeus"]), len(errors["nvml"])] == [16, 16]
    # 10 s windows are within 0.3 % and 2.5 % (tests/bench/bench_backends.py); the edges of 3 s weigh more.
    assert sorted(errors["zeus"])[14] <= 0.01
    assert sorted(errors["nvml"])[14] <= 0.08


def test_a_window_holds_the_whole_block(steady: FakeDriver) -> None:
    """It begins before the block does and ends after it, by no more than the calls take."""
    program = """
for backend in (eb.ZeusBackend(), eb.NVMLBackend(gpu_indices=[0, 1])):
    backend.stop_tracking(backend.start_tracking())
    tracker = backend.start_tracking()
    begun = time.time()
    time.sleep(0.5)
    done = time.time()
    tell([begun, done, shown(backend.stop_tracking(tracker))])
"""
    with Child(program, steady.env) as child:
        for _ in range(2):
            begun, done, measured = child.hear()
            assert begun - 0.1 <= measured["start"] <= begun + 1e-3
            assert done - 1e-3 <= measured["end"] <= done + 0.1


def test_visible_devices_mean_the_same_gpu_everywhere(steady: FakeDriver) -> None:
    """However GPU 1 is named, each backend measures NVML's GPU 1; the program's own Zeus is untouched."""
    forms = ["1", f"{steady.gpus[1].uuid}", steady.gpus[1].uuid[:12], "1,7,0"]
    program = f"""
from zeus.monitor import ZeusMonitor
told = []
for form in {forms!r}:
    os.environ["CUDA_VISIBLE_DEVICES"] = form
    for name in ("zeus", "nvml", "codecarbon"):
        m = window(eb.select_energy_backend(name), 0.3)
        told.append([*m["per_gpu_j"], m["total_j"] / m["duration"]])
    assert os.environ["CUDA_VISIBLE_DEVICES"] == form
os.environ["CUDA_VISIBLE_DEVICES"] = "1"
eb.ZeusBackend([0]).start_tracking()
own = ZeusMonitor()
eb.ZeusBackend([0]).start_tracking()
own.begin_window("mine", sync_execution=False)
time.sleep(0.3)
tell([told, own.end_window("mine", sync_execution=False).gpu_energy])
"""
    told, own = ask(program, steady.env)
    assert told == [[1, pytest.approx(300, rel=0.2)]] * 12  # GPU 0 draws 100 W
    assert own["0"] >= 85


def test_a_mig_slice_is_measured_as_its_whole_gpu(steady: FakeDriver) -> None:
    """No slice has a sensor: the joules are the GPU's, and a warning says so."""
    steady.gpus[1].mig_slices = 2
    slices = "MIG-" + steady.gpus[1].uuid.removeprefix("GPU-")[:-2] + "01"
    program = """
tell([window(eb.select_energy_backend(name), 0.3) for name in ("zeus", "nvml", "codecarbon")])
"""
    for measured in ask(program, {**steady.env, "CUDA_VISIBLE_DEVICES": slices}):
        assert measured["per_gpu_j"] == {"1": pytest.approx(300 * measured["duration"], rel=0.2)}
        assert "mig_slice" in measured["codes"]


UNDER_WAY = """
backend = eb.get_backend({name!r}, gpu_indices=[0, 1])
tracker = backend.start_tracking()
tell("begun")
input()
tell(shown(backend.stop_tracking(tracker)))
"""


@pytest.mark.parametrize("name", ["zeus", "nvml"])
def test_a_gpu_lost_in_the_middle_keeps_nothing_from_the_other(steady: FakeDriver, name: str) -> None:
    """Its joules end where it was lost, none are invented, its coverage is told, and a warning names it."""
    with Child(UNDER_WAY.format(name=name), steady.env) as child:
        child.hear()
        time.sleep(1.0)
        steady.gpus[1].lost = True
        time.sleep(1.0)
        child.go_on()
        measured = child.hear()
    assert measured["per_gpu_j"]["0"] == pytest.approx(100 * measured["duration"], rel=0.05)
    lost = [
        uuid for code, uuid in zip(measured["codes"], measured["uuids"], strict=True) if code == "gpu_lost"
    ]
    assert lost == [steady.gpus[1].uuid]
    if name == "zeus":
        assert measured["per_gpu_j"].keys() == {"0"}
        assert measured["coverage"] == 0
    else:
        assert measured["per_gpu_j"]["1"] == pytest.approx(300 * 1.0, rel=0.15)
        assert measured["coverage"] == pytest.approx(0.5, abs=0.1)
        assert "sample_gap" in measured["codes"]
        low, high = measured["bounds_j"]["1"]
        exact = steady.exact_joules(1, measured["start"], measured["end"])
        assert low <= exact <= high <= 300 * 1.2 + 700 * 1.2


def test_a_gpu_that_comes_back_is_measured_again(steady: FakeDriver) -> None:
    """The driver is loaded anew in the middle: a gap for nvml, and joules on either side."""
    with Child(UNDER_WAY.format(name="nvml"), steady.env) as child:
        child.hear()
        time.sleep(0.7)
        steady.unload()
        time.sleep(0.2)
        steady.reload()
        time.sleep(2.0)
        child.go_on()
        measured = child.hear()
    assert 0.4 <= measured["coverage"] < 1
    for gpu, watts in (("0", 100), ("1", 300)):
        assert measured["per_gpu_j"][gpu] == pytest.approx(
            watts * measured["coverage"] * measured["duration"], rel=0.25
        )
        assert measured["per_gpu_j"][gpu] <= watts * measured["duration"]
    assert measured["codes"].count("gpu_lost") == measured["codes"].count("sample_gap") == 2


def test_a_gpu_that_hangs_holds_up_nobody(steady: FakeDriver) -> None:
    """The other GPU's joules come within seconds; of this one, those before it hung."""
    with Child(UNDER_WAY.format(name="nvml"), steady.env) as child:
        child.hear()
        time.sleep(0.7)
        steady.gpus[1].hung = True
        time.sleep(0.5)
        begun = time.monotonic()
        child.go_on()
        measured = child.hear()
        assert time.monotonic() - begun < 4
        steady.gpus[1].hung = False
    assert measured["per_gpu_j"]["0"] == pytest.approx(100 * measured["duration"], rel=0.05)
    assert 0.3 <= measured["coverage"] <= 0.9
    assert "GPU 1 did not answer: a call on GPU 1 does not return" in measured["messages"]


def test_a_counter_that_restarts_counts_from_there(steady: FakeDriver) -> None:
    """The joules after the reset, a warning, and bounds that hold what was lost with it."""
    with Child(UNDER_WAY.format(name="zeus"), steady.env) as child:
        child.hear()
        time.sleep(0.5)
        reset_s = steady.gpus[1].reset_counter()
        steady.gpus[0].step_counter(-500.0)
        time.sleep(0.5)
        child.go_on()
        measured = child.hear()
    assert measured["per_gpu_j"] == {"1": pytest.approx(300 * (measured["end"] - reset_s), rel=0.05)}
    exact = steady.exact_joules(1, measured["start"], measured["end"])
    low, high = measured["bounds_j"]["1"]
    assert low <= exact <= high
    assert [code for code in measured["codes"] if code.startswith("counter")] == [
        "counter_late",
        "counter_reset",
    ]


def test_a_counter_that_did_not_move_has_measured_nothing(steady: FakeDriver) -> None:
    """No joules instead of 0, and Zeus's own warning becomes ours."""
    for gpu in steady.gpus:
        gpu.energy_update_period_s = 100.0
    measured = ask("tell(window(eb.ZeusBackend(), 0.1))", steady.env)
    assert (measured["total_j"], measured["per_gpu_j"], measured["bounds_j"]) == (None, None, None)
    assert measured["coverage"] == 0
    assert measured["codes"] == ["short_window", "short_window", "short_window", "energy_unavailable"]


@pytest.mark.parametrize("name", ["zeus", "nvml", "codecarbon"])
def test_a_gpus_set_up_and_warmth_are_warned_of(steady: FakeDriver, name: str) -> None:
    """Persistence mode off, and more than 10 degrees between start and end; 10 are not."""
    for gpu in steady.gpus:
        gpu.temperature_celsius = 40
    steady.gpus[0].persistence_mode = False
    with Child(UNDER_WAY.format(name=name), steady.env) as child:
        child.hear()
        steady.gpus[0].temperature_celsius = 50
        steady.gpus[1].temperature_celsius = 51
        time.sleep(0.3)
        child.go_on()
        measured = child.hear()
    found = dict(zip(measured["codes"], measured["uuids"], strict=True))
    assert found["persistence_mode_off"] == steady.gpus[0].uuid
    assert found["thermal_drift"] == steady.gpus[1].uuid


def test_an_averaged_reading_asks_for_longer_windows(steady: FakeDriver) -> None:
    """Where NVML has no instant power, 6 s are short; and few samples are told, too."""
    for gpu in steady.gpus:
        gpu.instant_supported = False
    steady.gpus[1].architecture = Architecture.VOLTA
    program = """
trackers = [(b, b.start_tracking()) for b in (eb.NVMLBackend(0), eb.NVMLBackend(1))]
time.sleep(5.2)
tell([shown(b.stop_tracking(t))["codes"] for b, t in trackers] + [window(eb.NVMLBackend(), 0.3)["codes"]])
"""
    assert ask(program, steady.env) == [["short_window"], [], ["short_window", "few_samples"]]


def test_edges_are_those_of_the_slowest_read(steady: FakeDriver) -> None:
    """A driver whose calls take 50 ms: the bounds grow with them and hold."""
    steady.gpus[1].slow_call_s = 0.05
    for backend in ("zeus", "nvml"):
        measured = ask(f"tell(window(eb.get_backend({backend!r}, gpu_indices=[0, 1]), 1.0))", steady.env)
        assert max(errors_of(steady, measured)) < 0.1
        assert measured["coverage"] == 1


def test_a_tracker_stopped_twice_answers_the_same(steady: FakeDriver) -> None:
    """And each tracker is a measurement of its own, also from several threads."""
    program = """
from concurrent.futures import ThreadPoolExecutor
same = []
for backend in (eb.ZeusBackend(), eb.NVMLBackend(), eb.CodeCarbonBackend()):
    with ThreadPoolExecutor(4) as pool:
        totals = [m["total_j"] for m in pool.map(lambda s: window(backend, s), [0.3, 0.4, 0.5, 0.6])]
    tracker = backend.start_tracking()
    time.sleep(0.2)
    first = backend.stop_tracking(tracker)
    same.append([totals == sorted(totals), backend.stop_tracking(tracker) is first])
tell(same)
"""
    assert ask(program, steady.env) == [[True, True]] * 3


def test_a_forked_child_measures_with_its_parents_backend(steady: FakeDriver) -> None:
    """Used in the parent first; only a measurement that the parent began cannot end in the child."""
    program = """
for backend in (eb.ZeusBackend(), eb.NVMLBackend(gpu_indices=[0, 1])):
    window(backend, 0.1)
    under_way = backend.start_tracking()
    pid = os.fork()
    if pid == 0:
        tell([window(backend, 0.5), failure(lambda: backend.stop_tracking(under_way))])
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    tell(shown(backend.stop_tracking(under_way))["total_j"])
"""
    with Child(program, steady.env) as child:
        for _ in range(2):
            measured, refused = child.hear()
            assert max(errors_of(steady, measured)) < 0.05
            assert refused.startswith("this measurement began in process")
            assert child.hear() >= 200


@pytest.mark.parametrize("name", ["zeus", "nvml"])
def test_a_superchip_is_measured_as_its_module(steady: FakeDriver, name: str) -> None:
    """On a GH200 counter and power are the module's: 50 W more here, and the scope says so."""
    steady.gpus[0].module_watts = 50.0
    measured = ask(f"tell(window(eb.get_backend({name!r}, gpu_indices=[0]), 0.5))", steady.env)
    assert measured["scope"] == "module"
    assert measured["total_j"] == pytest.approx(150 * measured["duration"], rel=0.1)
