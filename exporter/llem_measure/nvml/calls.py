"""Calls of the driver that have a timeout, since a driver call may never return."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from llem_core.errors import ConfigError

DRIVER_SECONDS: Final = 60.0
"""Time limit for the first call of a GPU: loading the driver with eight GPUs takes tens of seconds."""

CALL_SECONDS: Final = 2.0
"""Time limit for later calls."""

Index = TypeVar("Index", bound=int | None)
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
    results = call_all({gpu_index: function}, timeout_s)
    note_asked(gpu_index)
    if not results:
        raise no_answer(gpu_index, timeout_s)
    result = results[gpu_index]
    if isinstance(result, Exception):
        raise result
    return result


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
    functions: Mapping[Index, Callable[[], Result]], timeout_s: float = CALL_SECONDS
) -> dict[Index, Result | Exception]:
    """Call a function on each GPU (by NVML's index), all at once.

    Return the results, or the exceptions, of the calls that have returned in time.
    """
    results: dict[Index, Result | Exception] = {}

    def run(index: Index, function: Callable[[], Result]) -> None:
        try:
            results[index] = function()
        except Exception as exc:  # noqa: BLE001 - returned to the calling thread
            results[index] = exc

    threads = [
        threading.Thread(target=run, args=item, name=f"driver-call-{item[0]}", daemon=True)
        for item in functions.items()
    ]
    for thread in threads:
        thread.start()
    end_s = time.monotonic() + timeout_s
    for thread in threads:
        thread.join(max(0.0, end_s - time.monotonic()))
    return dict(results)
