"""Trackers that nobody stops, and forks: no lock stays held, and a driver that forgets is opened again."""

import importlib
import pkgutil
import threading

import pytest

import llem_measure as energy_backends
from tests.fake_nvml import FakeDriver
from tests.llem_measure.child import Child, ask

FORGOTTEN = """
import gc, threading
def running():
    return {thread.name for thread in threading.enumerate()} - {"MainThread"}
trackers = [eb.get_backend("nvml", gpu_indices=[0]).start_tracking()]
sampling = running()
trackers.append(eb.get_backend("codecarbon", gpu_indices=[0]).start_tracking())
both = running()
trackers.clear()
gc.collect()
for _ in range(300):
    if not running():
        break
    time.sleep(0.1)
tell([len(sampling), len(both), sorted(running())])
"""


def test_a_tracker_that_is_never_stopped_ends_when_nobody_holds_it(steady: FakeDriver) -> None:
    """When a tracker is garbage collected, its threads end and no longer read the GPU."""
    sampling, both, left = ask(FORGOTTEN, steady.env)
    assert both > sampling >= 1
    assert left == []


FINISHED = """
import gc, threading
started, start = [], threading.Thread.start
def noted(thread):
    started.append(thread.name)
    start(thread)
threading.Thread.start = noted
for name in ("nvml", "zeus", "codecarbon"):
    backend = eb.get_backend(name, gpu_indices=[0])
    tracker = backend.start_tracking()
    backend.stop_tracking(tracker)
    before = len(started)
    del tracker
    gc.collect()
    tell(len(started) - before)
"""


def test_a_finished_tracker_starts_no_thread_when_it_is_collected(steady: FakeDriver) -> None:
    """The garbage collection of a tracker that was stopped has nothing to end, and starts no thread."""
    with Child(FINISHED, steady.env) as child:
        assert [child.hear() for _ in range(3)] == [0, 0, 0]


STOPPED_WHILE_IT_HANGS = """
from concurrent.futures import ThreadPoolExecutor
backends = [eb.get_backend(name, gpu_indices=[0, 1]) for name in ("zeus", "nvml", "codecarbon")]
trackers = [backend.start_tracking() for backend in backends]
time.sleep(0.6)
tell("begun")
input()
with ThreadPoolExecutor(3) as pool:
    tell([shown(m) for m in pool.map(lambda b, t: b.stop_tracking(t), backends, trackers)])
tell([window(eb.get_backend(name, gpu_indices=[0]), 0.3)["total_j"] for name in ("zeus", "nvml")])
input()
tell(window(eb.get_backend("codecarbon", gpu_indices=[0]), 0.3)["total_j"])
"""


def test_a_stop_does_not_wait_for_a_gpu_that_hangs(steady: FakeDriver) -> None:
    """stop_tracking() returns during a hung call and names the GPU. The other GPU keeps its joules.

    nvml has the joules that it measured on GPU 1 before the hang. zeus has none, because the last reading is
    missing. CodeCarbon reads all GPUs, so it works again only when no GPU hangs.
    """
    with Child(STOPPED_WHILE_IT_HANGS, steady.env) as child:
        assert child.hear() == "begun"
        steady.gpus[1].hung = True
        child.go_on()
        stopped = child.hear()
        assert min(child.hear()) > 0
        steady.gpus[1].hung = False
        child.go_on()
        assert child.hear() > 0
    for measured in stopped:
        lost = "GPU 1 did not answer: a driver call on GPU 1 has not returned"
        assert any(message.startswith(lost) for message in measured["messages"])
    zeus, nvml, codecarbon = stopped
    assert (zeus["per_gpu_j"].keys(), nvml["per_gpu_j"].keys()) == ({"0"}, {"0", "1"})
    assert codecarbon["per_gpu_j"] is None
    assert 0 < nvml["per_gpu_j"]["1"] == pytest.approx(300 * nvml["coverage"] * nvml["duration"])
    for measured in (zeus, nvml):
        exact_j = steady.exact_joules(0, measured["start"], measured["end"])
        low_j, high_j = measured["bounds_j"]["0"]
        assert low_j <= exact_j <= high_j
    assert zeus["per_gpu_j"]["0"] == pytest.approx(
        steady.exact_joules(0, zeus["start"], zeus["end"]), rel=0.3
    )


def test_a_forked_child_opens_a_driver_that_forgets(steady: FakeDriver) -> None:
    """If a child must initialise NVML again, the backends that the parent used do so."""
    steady.forgets_fork = True
    program = """
backends = [eb.get_backend(name, gpu_indices=[0, 1]) for name in ("nvml", "zeus")]
for backend in backends:
    window(backend, 0.1)
pid = os.fork()
if pid == 0:
    tell([window(backend, 0.3) for backend in backends])
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
tell([list(window(backend, 0.2)["per_gpu_j"]) for backend in backends])
"""
    with Child(program, steady.env) as child:
        for measured in child.hear():
            for gpu, watts in (("0", 100), ("1", 300)):
                assert measured["per_gpu_j"][gpu] == pytest.approx(watts * measured["covered_s"], rel=0.3)
        assert child.hear() == [[0, 1], [0, 1]]


def test_no_backend_holds_a_lock_that_a_forked_child_finds_held() -> None:
    """No backend module has a plain Lock, which could stay held in a forked child."""
    for found in pkgutil.walk_packages(energy_backends.__path__, f"{energy_backends.__name__}."):
        module = importlib.import_module(found.name)
        held = [name for name, value in vars(module).items() if isinstance(value, type(threading.Lock()))]
        assert held == [], module.__name__
