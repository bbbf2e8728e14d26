"""A process of its own that holds the driver open and answers questions about it."""

import json
import os
import subprocess
import sys
from types import TracebackType
from typing import Any

from .driver import FakeDriver

_PROGRAM = """
import json, os, sys, time
import pynvml as nvml

def field(gpu, number, scope=0):
    value = nvml.nvmlDeviceGetFieldValues(gpu, [(number, scope)])[0]
    nvml._nvmlCheckReturn(value.nvmlReturn)
    wide = value.valueType == nvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
    return value.value.ullVal if wide else value.value.uiVal

nvml.nvmlInit()
gpu = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
print("null", flush=True)
for line in sys.stdin:
    try:
        answer = eval(line)
    except nvml.NVMLError as error:
        answer = type(error).__name__
    print(json.dumps(answer), flush=True)
"""


class NvmlProcess:
    """Evaluates expressions with real pynvml (`nvml`), its handles in `gpu`, and `field(handle, id, scope)`.

    An NVML error is answered by its name, as "NVMLError_GpuIsLost".
    """

    def __init__(self, driver: FakeDriver) -> None:
        """Start the process and wait until it has initialised NVML.

        Raises RuntimeError if that fails; the process says why on stderr.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            env={**os.environ, **driver.env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.answer()
        except RuntimeError:
            self._end()
            raise

    def __enter__(self) -> "NvmlProcess":
        """The process itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, expression: str) -> Any:
        """The value of a Python expression there, or the name of the NVML error that it raised."""
        self.send(expression)
        return self.answer()

    def send(self, expression: str) -> None:
        """Ask without waiting."""
        assert self._process.stdin is not None
        self._process.stdin.write(expression + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Wait for the answer to what was sent."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process ended with {self._process.wait()}")
        return json.loads(line)
