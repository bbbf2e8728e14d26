"""A Dask scheduler and its workers as processes of their own, on loopback."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.servers import Server

_QUIET = {"DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH": "0"}


class Scheduler(Server):
    """`dask scheduler`."""

    def __init__(self) -> None:
        super().__init__(env=_QUIET)

    @property
    def dask_address(self) -> str:
        return f"tcp://{self.address}"

    def _command(self) -> Sequence[str]:
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard"]
        return [sys.executable, "-m", "dask", "scheduler", *where]

    def _ready(self) -> bool:
        return "Scheduler at:" in self.log()


class Worker(Server):
    """`dask worker` of one thread, which nobody starts again when it dies."""

    def __init__(self, scheduler: Scheduler, folder: str) -> None:
        super().__init__(env=_QUIET)
        self._scheduler, self._folder = scheduler, folder

    def _command(self) -> Sequence[str]:
        how = ["--no-nanny", "--nthreads", "1", "--host", "127.0.0.1", "--no-dashboard"]
        where = ["--local-directory", self._folder, self._scheduler.dask_address]
        return [sys.executable, "-m", "dask", "worker", *how, *where]

    def _ready(self) -> bool:
        return "Registered to:" in self.log()


@dataclass(frozen=True, slots=True)
class Cluster:
    """A scheduler with workers."""

    scheduler: Scheduler
    workers: Sequence[Worker]

    @property
    def address(self) -> str:
        return self.scheduler.dask_address

    def log(self) -> str:
        """All that its processes have written."""
        return "".join(one.log() for one in (self.scheduler, *self.workers))


@contextmanager
def cluster(workers: int = 2) -> Iterator[Cluster]:
    """A cluster that is ready."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        scheduler = stack.enter_context(Scheduler())
        yield Cluster(scheduler, [stack.enter_context(Worker(scheduler, folder)) for _ in range(workers)])
