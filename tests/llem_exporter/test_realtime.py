"""The GPUs' threads go first where the process may have such, and only they."""

import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from llem_exporter.realtime import go_first
from tests.fake_nvml import FakeDriver
from tests.servers import Exporter, wait_until

FIRST = os.SCHED_RR | os.SCHED_RESET_ON_FORK


class OrdinaryExporter(Exporter):
    """An exporter that may have no thread but ordinary ones, whoever starts it."""

    def _command(self) -> Sequence[str]:
        unprivileged = ["setpriv", "--bounding-set=-sys_nice", "--inh-caps=-sys_nice"]
        return ["prlimit", "--rtprio=0", "--", *unprivileged, *super()._command()]


def policies(exporter: Exporter) -> dict[str, int]:
    """How the kernel schedules each thread, by the thread's name, or its id where that says nothing."""
    wait_until(lambda: exporter.fetch("/-/ready").status == 200, "ready")
    tasks = Path(f"/proc/{exporter.pid}/task").iterdir()
    return {task.name: os.sched_getscheduler(int(task.name)) for task in tasks}


def allowed() -> int:
    """What a thread of this process gets that asks to go first."""
    found: list[int] = []

    def ask() -> None:
        go_first()
        found.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert found[0] in (FIRST, os.SCHED_OTHER)
    return found[0]


def test_only_the_threads_of_gpus_go_first(driver: FakeDriver, servers: ExitStack) -> None:
    """As far as the process may: one for each GPU, and neither the server nor anything else."""
    args = ("--no-collector.zeus", "--no-collector.codecarbon")
    exporter = servers.enter_context(Exporter(env=driver.env, args=args))
    found = policies(exporter)
    assert found[str(exporter.pid)] == os.SCHED_OTHER
    expected = driver.gpu_count if allowed() == FIRST else 0
    assert list(found.values()).count(FIRST) == expected
    assert set(found.values()) <= {FIRST, os.SCHED_OTHER}


def test_without_the_right_to_it_all_threads_are_ordinary(driver: FakeDriver, servers: ExitStack) -> None:
    """And the GPUs are read all the same, with no word in the log."""
    args = ("--no-collector.zeus", "--no-collector.codecarbon")
    exporter = servers.enter_context(OrdinaryExporter(env=driver.env, args=args))
    assert set(policies(exporter).values()) == {os.SCHED_OTHER}
    assert "WARNING" not in exporter.log()
