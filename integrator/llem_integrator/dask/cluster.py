"""A Dask cluster that reads the samples; the only file that imports Dask."""

import re
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any, Final, Self

from llem_core import __version__
from llem_core.errors import ConfigError, LLEMError, SourceError
from llem_integrator.dask.tasks import Done, Store, Task, done, run, stretches, tasks
from llem_integrator.reading import Question
from llem_integrator.stores.base import Progress
from llem_integrator.windows.stretches import Stretch

_ADDRESS: Final = re.compile(r"(?:(?:tcp|tls|ws|wss)://)?[^\s/@]+:\d{1,5}")
_LOGGERS: Final = ("distributed", "distributed.client", "tornado", "asyncio")
_CONNECT_S: Final = 10.0
_LOOK_S: Final = 1.0
"""So often it is asked whether there is still a worker."""

_EACH: Final = 4
"""Tasks for each thread of the cluster: the last one to end keeps the others waiting for a quarter."""

_FEWEST: Final = 16


def quiet_log() -> None:
    """Dask's own log stays silent in this process: what fails is said once, by the error."""
    try:
        import dask.config as settings
    except ImportError:
        return  # which is said when it is needed
    settings.set({"logging": dict.fromkeys(_LOGGERS, "critical")})


class DaskCluster:
    """A running scheduler and its workers, as a reader of samples; a context manager.

    `patience_s` is how long it may be without any worker.
    """

    def __init__(
        self,
        address: str,
        store: Store,
        *,
        patience_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address, self._store = address, store
        self._patience_s, self._clock = patience_s, clock
        self._client: Any = None
        self.warnings: dict[str, None] = {}
        """What stores said of their answers to workers."""

    def __enter__(self) -> Self:
        if not _ADDRESS.fullmatch(self._address):
            raise ConfigError(f"not the address of a Dask scheduler: {self._address!r} (tcp://host:8786)")
        try:
            import distributed
        except ImportError as exc:
            raise ConfigError("--dask needs Dask: pip install dask distributed") from exc
        try:
            connect: Any = distributed.Client
            self._client = _within(
                _CONNECT_S + 1,
                lambda: connect(self._address, timeout=_CONNECT_S, set_as_default=False, name="llem"),
            )
        except (OSError, TimeoutError) as exc:
            raise SourceError(
                f"no Dask scheduler answers at {self._address} (start one: dask scheduler)"
            ) from exc
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close(timeout=_CONNECT_S)

    def __call__(self, question: Question, progress: Progress) -> None:
        """Answer a question as reading.Reader does: all shares of a part of the time, then of the next."""
        wanted = max(_FEWEST, _EACH * sum(self._threads().values()))
        asked = question.stretches()
        parts = [part for stretch in asked for part in stretches(stretch, -(-wanted // len(asked)))]
        count = -(-wanted // len(parts))
        coming = iter(parts)
        waiting: deque[tuple[Stretch, list[Any]]] = deque()
        try:
            for number in range(len(parts)):
                while len(waiting) * count < wanted and (stretch := next(coming, None)):
                    waiting.append(
                        (stretch, [self._submit(one) for one in tasks(self._store, question, stretch, count)])
                    )
                stretch, futures = waiting[0]
                for future in futures:
                    answered = self._result(future)
                    question.extend(answered.question, stretch)
                    self.warnings |= dict.fromkeys(answered.warnings)
                waiting.popleft()
                progress((number + 1) / len(parts))
        finally:
            self._client.cancel([future for _, futures in waiting for future in futures])

    def _submit(self, task: Task) -> Any:
        return self._client.submit(run, task, pure=False)  # a key made of the task would hash its secrets

    def _result(self, future: Any) -> Done:
        """What came of it, however long that takes while there are workers; raises SourceError."""
        lonely_since_s: float | None = None
        while True:
            try:
                error = future.exception(timeout=_LOOK_S)
                if error is None:
                    return done(future.result(timeout=self._patience_s))
            except TimeoutError:
                now_s = self._clock()
                lonely_since_s = None if self._threads() else lonely_since_s or now_s
                if lonely_since_s is not None and now_s - lonely_since_s >= self._patience_s:
                    raise SourceError(
                        f"no Dask worker at {self._address} for {self._patience_s:g} s "
                        f"(start some: dask worker {self._address})"
                    ) from None
            except CancelledError:
                raise SourceError(f"the Dask scheduler at {self._address} went away") from None
            else:
                raise _translated(error)

    def _threads(self) -> dict[str, int]:
        """The threads of each worker."""
        try:
            found: dict[str, int] = self._client.nthreads()
        except (OSError, TimeoutError) as exc:
            raise SourceError(f"the Dask scheduler at {self._address} went away") from exc
        return found


def _within(longest_s: float, make: Callable[[], Any]) -> Any:
    """What is made, or raises its error; TimeoutError after so long, for Dask waits for ever."""
    made: Future[Any] = Future()

    def work() -> None:
        try:
            made.set_result(make())
        except BaseException as error:  # noqa: BLE001 (raised again where it is waited for)
            made.set_exception(error)

    threading.Thread(target=work, name="llem-dask", daemon=True).start()
    return made.result(longest_s)


def _translated(error: BaseException) -> LLEMError:
    if isinstance(error, LLEMError):
        return error
    what = f"{type(error).__name__}: {error}"
    return SourceError(f"a Dask worker failed: {what} (each needs llem-energy {__version__} and the store)")
