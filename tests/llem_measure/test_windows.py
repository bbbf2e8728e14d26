"""Windows of ZeusBackend and NVMLBackend on the fake driver, whose true joules are known."""

import time
from pathlib import Path
from typing import Any

import pytest

from llem_measure.backends import measurement_warnings as doubts
from tests.fake_nvml import Architecture, FakeDriver
from tests.llem_measure.child import Child, ask
from tests.servers import wait_until

# Two GPUs a window, windows begun 0.1 s apart, all open at once.
OVERLAPPED = """
count, seconds = 8, 2.0
kinds = (eb.ZeusBackend, eb.NVMLBackend)
backends = [kind(gpu_indices=[2 * n, 2 * n + 1]) for n in range(count) for kind in kinds]
under_way, answers = [], []
for backend in backends:
    under_way.append((backend, backend.start_tracking(), time.monotonic()))
    time.sleep(0.1)
for backend, tracker, begun in under_way:
    time.sleep(max(0.0, begun + seconds - time.monotonic()))
    answers.append(shown(backend.stop_tracking(tracker)))
tell(answers)
"""

# Windows of several backends, of all GPUs unless `indices` says of which, begun one after the other.
TOGETHER = """
backends = [eb.get_backend(name, gpu_indices={indices}) for name in {names}]
trackers = [backend.start_tracking() for backend in backends]
tell("begun")
input()
tell([shown(backend.stop_tracking(tracker)) for backend, tracker in zip(backends, trackers)])
"""


def together(*names: str, indices: tuple[int, ...] = (0, 1)) -> str:
    return TOGETHER.format(names=list(names), indices=list(indices))


def assert_bounded(driver: FakeDriver, measured: dict[str, Any]) -> None:
    """Each GPU's joules, and the true joules of the window, are inside its bounds."""
    errors_of(driver, measured)


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
    """The bounds of overlapping windows of both backends contain the exact joules.

    tests/bench/bench_backends.py measures the size of the errors, which depends on the load of the machine.
    """
    with FakeDriver(tmp_path, gpus=16) as driver:
        answers = ask(OVERLAPPED, driver.env)
        errors: dict[str, list[float]] = {"zeus": [], "nvml": []}
        for answer in answers:
            errors[answer["backend"]] += errors_of(driver, answer)
            gaps = {"sample_gap"} if answer["coverage"] < 1 else set()
            assert set(answer["codes"]) - {"few_samples"} == {"short_window"} | gaps
            assert answer["duration"] >= 2.0
            assert answer["end"] - answer["start"] == pytest.approx(answer["duration"])
            assert answer["total_j"] == pytest.approx(sum(answer["per_gpu_j"].values()))
    assert [len(errors["zeus"]), len(errors["nvml"])] == [16, 16]


def test_a_window_holds_the_whole_block(steady: FakeDriver) -> None:
    """The window starts before the block and ends after it, but before stop_tracking() returns."""
    program = """
for backend in (eb.ZeusBackend(), eb.NVMLBackend(gpu_indices=[0, 1])):
    called = time.time()
    tracker = backend.start_tracking()
    begun = time.time()
    time.sleep(0.2)
    done = time.time()
    measured = shown(backend.stop_tracking(tracker))
    tell([called, begun, done, time.time(), measured])
"""
    with Child(program, steady.env) as child:
        for _ in range(2):
            called, begun, done, returned, measured = child.hear()
            assert called - 1e-3 <= measured["start"] <= begun + 1e-3
            assert done - 1e-3 <= measured["end"] <= returned + 1e-3


def test_visible_devices_mean_the_same_gpu_everywhere(steady: FakeDriver) -> None:
    """For each way to name GPU 1, every backend measures NVML's GPU 1. The user's own Zeus is unaffected."""
    forms = ["1", f"{steady.gpus[1].uuid}", steady.gpus[1].uuid[:12], "1,7,0"]
    program = f"""
from zeus.monitor import ZeusMonitor
told = []
for form in {forms!r}:
    os.environ["CUDA_VISIBLE_DEVICES"] = form
    backends = [eb.select_energy_backend(name) for name in ("zeus", "nvml", "codecarbon")]
    trackers = [backend.start_tracking() for backend in backends]
    time.sleep(0.5)
    for m in [shown(backend.stop_tracking(tracker)) for backend, tracker in zip(backends, trackers)]:
        told.append([*m["per_gpu_j"], m["total_j"] / m["covered_s"]])
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
    assert told == [[1, pytest.approx(300, abs=150)]] * 12  # GPU 0 draws 100 W
    assert own["0"] >= 85


def test_a_mig_slice_is_measured_as_its_whole_gpu(steady: FakeDriver) -> None:
    """A MIG slice has no sensor. The joules are those of the whole GPU, with a warning."""
    steady.gpus[1].mig_slices = 2
    slices = "MIG-" + steady.gpus[1].uuid.removeprefix("GPU-")[:-2] + "01"
    program = """
backends = [eb.select_energy_backend(name) for name in ("zeus", "nvml", "codecarbon")]
trackers = [backend.start_tracking() for backend in backends]
time.sleep(0.5)
tell([shown(backend.stop_tracking(tracker)) for backend, tracker in zip(backends, trackers)])
"""
    for measured in ask(program, {**steady.env, "CUDA_VISIBLE_DEVICES": slices}):
        assert measured["per_gpu_j"] == {"1": pytest.approx(300 * measured["covered_s"], rel=0.5)}
        assert "mig_slice" in measured["codes"]


def test_a_gpu_lost_in_the_middle_keeps_nothing_from_the_other(steady: FakeDriver) -> None:
    """The joules of a lost GPU end when it is lost. Its coverage is below 1, and a warning names it.

    zeus has no joules for it, because the last reading is missing.
    """
    with Child(together("zeus", "nvml"), steady.env) as child:
        child.hear()
        time.sleep(0.7)
        lost_s = time.time()
        steady.gpus[1].lost = True
        time.sleep(0.7)
        child.go_on()
        zeus, nvml = child.hear()
    for measured in (zeus, nvml):
        assert_bounded(steady, measured)
        lost = zip(measured["codes"], measured["uuids"], strict=True)
        assert [uuid for code, uuid in lost if code == "gpu_lost"] == [steady.gpus[1].uuid]
    assert (zeus["per_gpu_j"].keys(), zeus["coverage"]) == ({"0"}, 0)
    assert zeus["total_j"] == pytest.approx(100 * zeus["duration"], rel=0.3)
    assert "sample_gap" in nvml["codes"]
    # At 300 W joules are covered seconds; the rest of the window is a gap.
    assert nvml["per_gpu_j"]["1"] == pytest.approx(300 * nvml["coverage"] * nvml["duration"])
    assert 0 < nvml["per_gpu_j"]["1"] <= 300 * (lost_s + 0.1 - nvml["start"])
    assert nvml["per_gpu_j"]["0"] > 100 * nvml["coverage"] * nvml["duration"]


def test_a_gpu_that_comes_back_is_measured_again(steady: FakeDriver) -> None:
    """A driver reload in a window is a gap for nvml. Joules are counted before and after it."""
    with Child(together("nvml"), steady.env) as child:
        child.hear()
        time.sleep(0.5)
        unloaded_s = time.time()
        steady.unload()
        time.sleep(0.4)
        reads = [calls.fields for calls in steady.calls()]
        steady.reload()
        wait_until(lambda: all(c.fields > n for c, n in zip(steady.calls(), reads, strict=True)), "readings")
        time.sleep(0.8)
        child.go_on()
        (measured,) = child.hear()
    assert_bounded(steady, measured)
    assert 0 < measured["coverage"] < 1
    for gpu, watts in (("0", 100), ("1", 300)):
        rounding_j = watts * 1e-6  # unix seconds, as floats, have steps of 0.24 us
        assert measured["per_gpu_j"][gpu] >= watts * measured["covered_s"] - rounding_j
        before_s = unloaded_s - measured["start"]
        assert watts * before_s < measured["per_gpu_j"][gpu] < watts * measured["duration"]
    assert measured["codes"].count("gpu_lost") == measured["codes"].count("sample_gap") == 2


def test_a_counter_that_restarts_counts_from_there(steady: FakeDriver) -> None:
    """After a counter reset, the new value is counted, with a warning. The bounds include the lost joules."""
    with Child(together("zeus"), steady.env) as child:
        child.hear()
        time.sleep(0.3)
        reset_s = steady.gpus[1].reset_counter()
        steady.gpus[0].step_counter(-500.0)
        time.sleep(0.5)
        child.go_on()
        (measured,) = child.hear()
    assert_bounded(steady, measured)
    assert measured["per_gpu_j"] == {"1": pytest.approx(300 * (measured["end"] - reset_s), rel=0.3)}
    assert [code for code in measured["codes"] if code.startswith("counter")] == [
        "counter_late",
        "counter_reset",
    ]


def test_a_counter_that_did_not_move_has_measured_nothing(steady: FakeDriver) -> None:
    """If the counter does not change, there are no joules instead of 0, and a warning."""
    for gpu in steady.gpus:
        gpu.energy_update_period_s = 100.0
    measured = ask("tell(window(eb.ZeusBackend(), 0.1))", steady.env)
    assert (measured["total_j"], measured["per_gpu_j"], measured["bounds_j"]) == (None, None, None)
    assert measured["coverage"] == 0
    assert measured["codes"] == ["short_window", "short_window", "short_window", "energy_unavailable"]


def test_readings_that_are_rejected_are_not_a_gpu_that_does_not_answer(steady: FakeDriver) -> None:
    """If all readings of a GPU are impossible, the warning names their errors. The other GPU has joules."""
    steady.gpus[1].power_override_watts = 752_000.0
    measured = ask("tell(window(eb.NVMLBackend(gpu_indices=[0, 1]), 0.5))", steady.env)
    warnings = dict(zip(measured["codes"], measured["messages"], strict=True))
    assert measured["per_gpu_j"].keys() == {"0"}
    assert "gpu_lost" not in warnings
    assert warnings["bad_samples"].startswith("GPU 1: no power reading was valid: POWER_ABOVE_LIMIT (")


def test_a_gpus_set_up_and_warmth_are_warned_of(steady: FakeDriver) -> None:
    """Persistence mode off, and a temperature change of more than 10 degrees, give warnings."""
    for gpu in steady.gpus:
        gpu.temperature_celsius = 40
    steady.gpus[0].persistence_mode = False
    with Child(together("zeus", "nvml", "codecarbon"), steady.env) as child:
        child.hear()
        steady.gpus[0].temperature_celsius = 50
        steady.gpus[1].temperature_celsius = 51
        time.sleep(0.3)
        child.go_on()
        for measured in child.hear():
            warnings = dict(zip(measured["codes"], measured["uuids"], strict=True))
            assert warnings["persistence_mode_off"] == steady.gpus[0].uuid
            assert warnings["thermal_drift"] == steady.gpus[1].uuid


def test_an_averaged_reading_asks_for_longer_windows(steady: FakeDriver) -> None:
    """If power is a 1 s average, the recommended window is 20 s, else 5 s. Few samples give a warning."""
    for gpu in steady.gpus:
        gpu.instant_supported = False
    steady.gpus[1].architecture = Architecture.VOLTA
    averaged, legacy = ask("tell([window(eb.NVMLBackend(gpu), 0.3) for gpu in (0, 1)])", steady.env)
    for measured in (averaged, legacy):
        assert measured["codes"][0] == "short_window"
        assert ("few_samples" in measured["codes"]) == (measured["samples"] < 10)
    assert averaged["messages"][0].endswith("s is short for a 1 s average of power; measure 20 s or more")
    assert legacy["messages"][0].endswith("measure 5 s or more")


@pytest.mark.parametrize(("averaged", "least_s"), [(False, 5.0), (True, 20.0)])
def test_a_window_is_short_up_to_a_length(averaged: bool, least_s: float) -> None:
    """A window shorter than the recommended length gives a warning. One of that length does not."""
    (warning,) = doubts.of_window(least_s - 0.001, averaged=averaged)
    assert warning.code == "short_window"
    assert list(doubts.of_window(least_s, averaged=averaged)) == []


def test_edges_are_those_of_the_slowest_read(steady: FakeDriver) -> None:
    """If driver calls take 50 ms, the bounds are wider and contain the exact joules."""
    steady.gpus[1].slow_call_s = 0.05
    with Child(together("zeus", "nvml"), steady.env) as child:
        child.hear()
        time.sleep(0.7)
        child.go_on()
        for measured in child.hear():
            assert_bounded(steady, measured)


def test_a_tracker_stopped_twice_answers_the_same(steady: FakeDriver) -> None:
    """A second stop returns the same measurement. Trackers in several threads are independent."""
    program = """
from concurrent.futures import ThreadPoolExecutor
answers = []
for backend in (eb.ZeusBackend(), eb.NVMLBackend(sample_interval_ms=1000), eb.CodeCarbonBackend()):
    with ThreadPoolExecutor(3) as pool:
        outer = pool.submit(backend.start_tracking).result()
        inner = [pool.submit(window, backend, 0.3) for _ in range(2)]
        inner_j = [one.result()["total_j"] for one in inner]
        first = pool.submit(backend.stop_tracking, outer).result()
    answers.append([max(inner_j) <= first.total_j, backend.stop_tracking(outer) is first])
tell(answers)
"""
    assert ask(program, steady.env) == [[True, True]] * 3


def test_a_forked_child_measures_with_its_parents_backend(steady: FakeDriver) -> None:
    """A forked child can use the parent's backend, but cannot stop a measurement of the parent."""
    program = """
for backend in (eb.ZeusBackend(), eb.NVMLBackend(gpu_indices=[0, 1], sample_interval_ms=1000)):
    window(backend, 0.1)
    under_way = backend.start_tracking()
    pid = os.fork()
    if pid == 0:
        tell([window(backend, 0.3), failure(lambda: backend.stop_tracking(under_way))])
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    tell(shown(backend.stop_tracking(under_way))["total_j"])
"""
    with Child(program, steady.env) as child:
        for _ in range(2):
            measured, refused = child.hear()
            assert max(errors_of(steady, measured)) < 0.5
            assert refused.startswith("this measurement began in process")
            assert child.hear() > measured["total_j"]


def test_a_superchips_gpu_is_measured_without_its_module(steady: FakeDriver) -> None:
    """NVML reads the GPU's own power. A counter of the whole module is no counter of the GPU."""
    steady.gpus[0].module, steady.modules[0].cpu_watts = 0, 50.0
    with Child(together("zeus", "nvml", indices=(0,)), steady.env) as child:
        child.hear()
        time.sleep(0.6)
        child.go_on()
        for measured in child.hear():
            assert measured["scope"] == "gpu"
            assert_bounded(steady, measured)
    steady.gpus[0].energy_scope = "module"
    program = (
        "tell([failure(eb.ZeusBackend([0]).check), eb.select_energy_backend('auto', gpu_indices=[0]).name])"
    )
    refused, chosen = ask(program, steady.env)
    assert refused == "the energy counter of GPU 0 counts its whole module, with CPU and maybe other GPUs"
    assert chosen == "nvml"
