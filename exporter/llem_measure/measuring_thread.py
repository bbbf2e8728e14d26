"""The measurement of a command, in a thread of its own: if the driver hangs, the command still runs."""

import os
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from llem_core.errors import ConfigError, DeviceError, LLEMError
from llem_measure import Measured, child, measure
from llem_measure.nvml import device as nvml_device
from llem_measure.nvml import discovery
from llem_measure.report import NamedGpu

STOP_SECONDS: Final = 10.0
"""How long the end of the measurement may take after the command has ended."""


class UnknownGpuError(ConfigError):
    """A GPU was asked for that is not in this machine."""


class MeasuringThread:
    """The measurement, which the program waits for only a limited time."""

    def __init__(self, backend: str, gpus: Sequence[str], timeout_s: float) -> None:
        """Start the measurement and wait until it has started.

        `failure` is the reason if nothing is measured, `no_gpu` the reason if only CPU and memory are.
        """
        self._backend, self._asked = backend, gpus
        self._started, self._command_ended = threading.Event(), threading.Event()
        self._step = "loading NVML"
        self._started_as = Measured()
        self.measured = Measured()
        self.gpus: tuple[NamedGpu, ...] = ()
        self.failure = ""
        self.no_gpu = ""
        self.usage_error = ""
        self._thread = threading.Thread(target=self._run, name="measuring", daemon=True)
        mask = child.block_signals()  # in the thread too: it must not receive the command's signals
        self._thread.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if self._started.wait(timeout_s):
            self.measured = self._started_as
        else:
            self.failure = f"no answer within {timeout_s:g} s while {self._step}"

    def end(self) -> bool:
        """End the measurement; return whether it ended in time."""
        self._command_ended.set()
        if not self.failure:
            self._thread.join(STOP_SECONDS)
            if self._thread.is_alive():
                self.failure = f"the measurement did not end within {STOP_SECONDS:g} s"
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            indices = self._find_gpus()
            self._step = f"starting backend {self._backend}"
            with measure(self._backend, indices) as measured:
                if not self._works(measured):
                    self.failure = "; ".join(
                        f"{tried.backend}: {tried.reason}" for tried in measured.considered
                    )
                self._started_as = measured
                self._started.set()
                self._command_ended.wait()
        except UnknownGpuError as exc:
            self.usage_error = str(exc)
        except Exception as exc:  # noqa: BLE001 - a failed measurement must not stop the command
            self.failure = str(exc) if isinstance(exc, LLEMError) else f"{type(exc).__name__}: {exc}"
        finally:
            self._started.set()

    @staticmethod
    def _works(measured: Measured) -> bool:
        """Return whether a backend has started; `considered` is empty where the backend was named."""
        return not measured.considered or any(tried.usable for tried in measured.considered)

    def _find_gpus(self) -> list[int] | None:
        """Name the GPUs; return the indices to measure, or None for all visible GPUs."""
        if self._asked:
            uuids = self._uuids()
            indices = list(dict.fromkeys(_index_of(gpu, uuids) for gpu in self._asked))
            self.gpus = tuple(self._named(index, uuids[index]) for index in indices)
            return indices
        visible = os.environ.get(discovery.VISIBLE)
        try:
            found = discovery.visible(visible, self._uuids(), nvml_device.index_of_mig)
        except ConfigError as exc:
            self.no_gpu = str(exc)
        else:
            self.gpus = tuple(self._named(gpu.index, gpu.uuid) for gpu in found)
            self.no_gpu = "" if found else f"no GPU is visible ({discovery.VISIBLE} is {visible!r})"
        return None

    def _uuids(self) -> dict[int, str]:
        """Return the UUIDs of the GPUs that answer; if GPUs are asked for by index, only theirs."""
        indices: Sequence[int] = range(nvml_device.count_gpus())
        if self._asked and all(gpu.isdecimal() for gpu in self._asked):
            indices = [index for index in map(int, self._asked) if index in indices]
        uuids: dict[int, str] = {}
        for index in indices:
            self._step = f"reading the UUID of GPU {index}"
            with suppress(DeviceError):
                uuids[index] = nvml_device.uuid_at(index)
        return uuids

    def _named(self, index: int, uuid: str) -> NamedGpu:
        self._step = f"reading the name of GPU {index}"
        try:
            return NamedGpu(index, uuid, nvml_device.name_at(index))
        except DeviceError:
            return NamedGpu(index, uuid)


def _index_of(gpu: str, uuids: dict[int, str]) -> int:
    """Return the NVML index of a GPU given as index, UUID or start of a UUID. Raises UnknownGpuError."""
    if gpu.isdecimal():
        found = [int(gpu)] if int(gpu) in uuids else []
    else:
        found = [index for index, uuid in uuids.items() if uuid.startswith(gpu)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UnknownGpuError(f"{gpu!r} matches several GPUs: {', '.join(uuids[index] for index in found)}")
    raise UnknownGpuError(f"there is no GPU {gpu!r}, or it does not answer")
