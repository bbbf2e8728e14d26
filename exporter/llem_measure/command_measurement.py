"""The measurement of a command, begun in a thread that receives no signals."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from llem_core.errors import ConfigError, DeviceError, LLEMError
from llem_measure import Measured, child, measure
from llem_measure.backends import measurement_warnings
from llem_measure.nvml.calls import NoAnswerError, call
from llem_measure.nvml.discovery import Gpu, UnknownGpuError, find_gpus, indices_of
from llem_measure.nvml.handles import ask, handle_of
from llem_measure.report import NamedGpu


class CommandMeasurement:
    """A measurement that begins when this object is made. A failure never raises, except UnknownGpuError.

    `gpus` are the GPUs that are measured. `message` says what is not measured, and why; "" if all is.
    `measured` has warnings before the end only if nothing is measured.
    """

    def __init__(self, backend: str, gpu_names: Sequence[str], driver_timeout_s: float) -> None:
        self.gpus: tuple[NamedGpu, ...] = ()
        self.measured = Measured()
        self.message = ""
        self._block = ExitStack()
        # The libraries' threads inherit the signal mask of this thread. The main thread still gets Ctrl-C.
        thread = ThreadPoolExecutor(1, "measuring", child.block_signals)
        thread.submit(self._begin, backend, gpu_names, driver_timeout_s).result()

    def end(self) -> None:
        """End the measurement, and fill in `measured`."""
        self._block.close()

    def _begin(self, backend: str, gpu_names: Sequence[str], driver_timeout_s: float) -> None:
        try:
            indices = indices_of(gpu_names, driver_timeout_s) if gpu_names else None
            self._find_gpus(indices, driver_timeout_s)
            block = measure(backend, indices, driver_timeout_s=driver_timeout_s)
            self.measured = self._block.enter_context(block)
        except UnknownGpuError:
            raise
        except Exception as exc:  # noqa: BLE001 - a failed measurement must not stop the command
            reason = str(exc) if isinstance(exc, LLEMError) else f"{type(exc).__name__}: {exc}"
            self.measured = Measured(warnings=(measurement_warnings.unavailable([reason]),))
        if self.measured.warnings:
            self.message = self.measured.warnings[0].message

    def _find_gpus(self, indices: Sequence[int] | None, driver_timeout_s: float) -> None:
        """Find the GPUs and their names. Without a driver, CPU and memory can still be measured."""
        try:
            gpus = find_gpus(indices, driver_timeout_s)
            self.gpus = tuple(_named(gpu, driver_timeout_s) for gpu in gpus)
            reason = "" if gpus else "no GPU is visible"
        except ConfigError as exc:
            if indices is not None or isinstance(exc, NoAnswerError):
                raise
            reason = str(exc)
        if reason:
            self.message = f"no GPU is measured; CodeCarbon estimates CPU and memory: {reason}"


def _named(gpu: Gpu, driver_timeout_s: float) -> NamedGpu:
    try:
        name = call(gpu.index, lambda: ask(handle_of(gpu.index), "nvmlDeviceGetName"), driver_timeout_s)
        return NamedGpu(gpu.index, gpu.uuid, name)
    except DeviceError:
        return NamedGpu(gpu.index, gpu.uuid)
