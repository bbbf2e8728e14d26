"""The worker process, which measures with CodeCarbon.

CodeCarbon runs outside the exporter because its import and its measurements hold the GIL for longer than the
sample interval. The worker's only argument is its settings, as JSON. It writes one line of JSON for each
measurement. It ends when its standard input is closed, even during a measurement, so it never outlives the
exporter.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

from llem_core.errors import ConfigError

FIRST_SECONDS: Final = 0.5
"""Time before the first measurement. CodeCarbon reports 0 J for a GPU whose counter has not changed."""

NEVER_SECONDS: Final = 1e6
"""CodeCarbon's own period, too long to matter: the worker asks for each measurement instead, to know how long
it takes. While one hangs, no others queue up."""


def main() -> None:
    """Measure until standard input is closed."""
    # Terminals and service managers signal the worker, too, but the exporter decides when it ends.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # Libraries print to standard output, which carries only measurements: redirect theirs to standard error.
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    threading.Thread(target=_exit_with_stdin, daemon=True).start()
    try:
        for measurement in _measurements(**json.loads(sys.argv[1])):
            output.write(json.dumps(measurement) + "\n")
    except Exception as exc:  # noqa: BLE001 - the exporter logs whatever CodeCarbon raises
        permanent = isinstance(exc, ConfigError)
        error = str(exc) if permanent else f"CodeCarbon does not start: {type(exc).__name__}: {exc}"
        output.write(json.dumps({"error": error, "permanent": permanent}) + "\n")


def _exit_with_stdin() -> None:
    """Exit when standard input is closed, without waiting for a measurement that hangs in the driver."""
    while os.read(0, 1024):
        pass
    os._exit(0)


def _measurements(
    gpu_indices: list[int], country_iso_code: str | None, period_s: float
) -> Iterator[dict[str, Any]]:
    """Yield a measurement every `period_s`. Skip those that fail, except the first."""
    from llem_measure.backends.emissions_tracker import open_tracker

    tracker, totals = open_tracker(gpu_indices, country_iso_code, measure_power_secs=NEVER_SECONDS)
    tracker.start()
    due_s = time.monotonic() + FIRST_SECONDS
    while True:
        time.sleep(max(0.0, due_s - time.monotonic()))
        start_s = time.monotonic()
        measured = tracker.flush() is not None  # flush() logs its errors instead of raising them
        if measured:
            yield {**totals, "unix_s": time.time(), "duration_s": time.monotonic() - start_s}
        elif not totals:
            raise RuntimeError(
                "CodeCarbon returned no measurement. Run 'codecarbon detect' to find the cause."
            )
        due_s = max(due_s + period_s, time.monotonic())


if __name__ == "__main__":
    main()
