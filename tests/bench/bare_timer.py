"""A timer that does nothing else, in a process of its own: how late this machine wakes anybody.

with BareTimer() as timer:
    ...
timer.late_s        # each wake-up minus its time, ten a second
"""

import subprocess
import sys
import threading
from array import array
from typing import Self

_PROGRAM = """
import sys, time
due_s = time.monotonic()
while True:
    due_s += 0.1
    time.sleep(max(0.0, due_s - time.monotonic()))
    sys.stdout.write(f"{time.monotonic() - due_s}\\n")
    sys.stdout.flush()
"""


class BareTimer:
    """Runs from entry to exit."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen([sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self.late_s = array("d")
        self._reader.start()
        return self

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.late_s.append(float(line))

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._reader.join()
        self._process.communicate()
