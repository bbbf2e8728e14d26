"""Calls of the driver that have a timeout, since a driver call may never return."""

import threading
import time
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

from llem_core.errors import ConfigError

DRIVER_SECONDS: Final = 60.0
"""Time limit for the first call of a GPU: loading the driver with eight GPUs takes tens of seconds."""

CALL_SECONDS: Final = 2.0
"""Time limit for later calls."""

Result = TypeVar("Result")


class NoAnswerError(ConfigError):
    """A call of the driver does not return."""


# The GPUs that this process has called, by NVML's index: they have answered, or had the driver's timeout.
_asked = set[int | None]()


def call(gpu_index: int | None, function: Callable[[], Result], driver_timeout_s: float) -> Result:
    """Return the result of a driver call on a GPU, or on the driver itself (None).

    The first call in this process may take `driver_timeout_s`, later ones 2 s, even if the first one hangs.
    Raises what the function raises, and NoAnswerError if it does not return in time.
    """
    timeout_s = CALL_SECONDS if gpu_index in _asked else driver_timeout_s
    results: SimpleQueue[tuple[Result | None, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            results.put((function(), None))
        except BaseException as exc:  # noqa: BLE001 - raised again in the calling thread
            results.put((None, exc))

    threading.Thread(target=run, name=f"driver-call-{gpu_index}", daemon=True).start()
    try:
        result, error = results.get(timeout=timeout_s)
    except Empty:
        note_asked(gpu_index)
        raise no_answer(gpu_index, timeout_s) from None
    note_asked(gpu_index)
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # None only if the function returns None


def note_asked(gpu_index: int | None) -> None:
    """Note that a GPU has answered, or had the driver's timeout: its later calls have the shorter one."""
    _asked.add(gpu_index)


def no_answer(gpu_index: int | None, timeout_s: float) -> NoAnswerError:
    """Return the error for a call that does not return."""
    if gpu_index is None:
        return NoAnswerError(f"the NVIDIA driver hangs: NVML has not answered for {timeout_s:g} s; see dmesg")
    return NoAnswerError(
        f"GPU {gpu_index} hangs: a driver call has not returned for {timeout_s:g} s; see dmesg"
    )


def call_all(
    functions: Mapping[int, Callable[[], Result]], timeout_s: float = CALL_SECONDS
) -> dict[int, Result | Exception]:
    """Call a function on each GPU (by NVML's index), all at once.

    Return the results, or the exceptions, of the calls that have returned in time.
    """
    results: dict[int, Result | Exception] = {}

    def run(index: int, function: Callable[[], Result]) -> None:
        try:
            results[index] = function()
        except Exception as exc:  # noqa: BLE001 - returned to the calling thread
            results[index] = exc

    threads = [threading.Thread(target=run, args=item, daemon=True) for item in functions.items()]
    for thread in threads:
        thread.start()
    end_s = time.monotonic() + timeout_s
    for thread in threads:
        thread.join(max(0.0, end_s - time.monotonic()))
    return dict(results)
