"""Trackers that nobody stops, locks that are held while a process forks, a driver that forgets at fork."""

import pytest

from tests.fake_nvml import FakeDriver
from tests.llem_exporter.energy_backends.child import Child, ask

FORGOTTEN = """
import gc, threading
def running():
    return {thread.name for thread in threading.enumerate()} - {"MainThread"}
backend = eb.get_backend("%s", gpu_indices=[0])
tracker = backend.start_tracking()
time.sleep(0.5)
busy = running()
del tracker
gc.collect()
for _ in range(100):
    if not running():
        break
    time.sleep(0.1)
tell([len(busy), sorted(running())])
"""


@pytest.mark.parametrize("name", ["nvml", "codecarbon"])
def test_a_tracker_that_is_never_stopped_ends_when_nobody_holds_it(steady: FakeDriver, name: str) -> None:
    """Its threads read the GPU no more; before, there were some."""
    busy, left = ask(FORGOTTEN % name, steady.env)
    assert busy >= 1
    assert left == []


STOPPED_WHILE_IT_HANGS = """
backend = eb.get_backend({name!r}, gpu_indices=[0, 1])
tracker = backend.start_tracking()
time.sleep(0.6)
tell("begun")
input()
begun_s = time.monotonic()
told = shown(backend.stop_tracking(tracker))
tell([time.monotonic() - begun_s, told])
tell(window(eb.get_backend({name!r}, gpu_indices=[0]), 0.6)["total_j"])
"""


@pytest.mark.parametrize("name", ["zeus", "nvml", "codecarbon"])
def test_a_stop_does_not_wait_for_a_gpu_that_hangs(steady: FakeDriver, name: str) -> None:
    """It ends in 2 s and names the GPU; the other has its joules, where they can be told apart."""
    with Child(STOPPED_WHILE_IT_HANGS.format(name=name), steady.env) as child:
        assert child.hear() == "begun"
        steady.gpus[1].hung = True
        child.go_on()
        took_s, measured = child.hear()
        if name == "codecarbon":  # its own calls look at all GPUs
            steady.gpus[1].hung = False
        assert child.hear() > 0
    assert took_s < 4
    assert "GPU 1 did not answer: a call on GPU 1 does not return" in measured["messages"]
    # The sampler has what it read of GPU 1 before, a counter without its end has nothing.
    known = {"zeus": {"0"}, "nvml": {"0", "1"}, "codecarbon": set[str]()}[name]
    assert set(measured["per_gpu_j"] or ()) == known


@pytest.mark.parametrize("name", ["nvml", "zeus"])
def test_a_forked_child_opens_a_driver_that_forgets(steady: FakeDriver, name: str) -> None:
    """Where NVML is uninitialised in a child, the backend that the parent used initialises it again."""
    steady.forgets_fork = True
    program = f"""
backend = eb.get_backend({name!r}, gpu_indices=[0, 1])
window(backend, 0.1)
pid = os.fork()
if pid == 0:
    tell(window(backend, 0.5))
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
tell(window(backend, 0.2)["per_gpu_j"].keys() == {{0, 1}})
"""
    with Child(program, steady.env) as child:
        measured = child.hear()
        assert measured["per_gpu_j"]["0"] == pytest.approx(100 * measured["duration"], rel=0.1)
        assert measured["per_gpu_j"]["1"] == pytest.approx(300 * measured["duration"], rel=0.1)
        assert child.hear() is True


@pytest.mark.parametrize(
    ("name", "lock"), [("zeus", "zeus._changing"), ("codecarbon", "codecarbon._importing")]
)
def test_a_lock_that_another_thread_held_at_the_fork_is_free_in_the_child(
    steady: FakeDriver, name: str, lock: str
) -> None:
    """A thread of the parent holds it and does not exist in the child; in the parent it stays held."""
    program = f"""
import threading
from llem_exporter.energy_backends import {name}
backend = eb.get_backend({name!r}, gpu_indices=[0])
window(backend, 0.1)
held, go_on = threading.Event(), threading.Event()
def hold():
    with {lock}:
        held.set()
        go_on.wait()
holder = threading.Thread(target=hold)
holder.start()
held.wait()
pid = os.fork()
if pid == 0:
    tell(window(backend, 0.5)["total_j"])
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
still = {lock}.locked()
go_on.set()
holder.join()
tell([still, {lock}.locked()])
"""
    with Child(program, steady.env) as child:
        assert child.hear() > 0
        assert child.hear() == [True, False]
