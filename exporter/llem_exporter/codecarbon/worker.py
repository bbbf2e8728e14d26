"""CodeCarbon in a process of its own, `python -m llem_exporter.codecarbon.worker`, started by process.py.

Its import and its measurements hold an interpreter's lock for longer than a tick allows. It reads one
line of JSON, the settings, and writes one line of JSON for each measurement. It ends when its
standard input does, whatever it is doing, so it never outlives the exporter.
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
"""Until the first measurement: a counter that has not moved yet looks like that of no GPU."""

NEVER_SECONDS: Final = 1e6
"""CodeCarbon's own period. Measurements are asked for here instead: so the time that they take is known, and
one that hangs has no others pile up behind it."""


def main() -> None:
    """Measure until standard input ends."""
    # A terminal and a service manager send these to both, and the exporter ends this when it ends.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # Libraries print on standard output; what they print must not be taken for a measurement.
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    settings = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        for measurement in _measurements(**settings):
            lines.write(json.dumps(measurement) + "\n")
    except ConfigError as exc:
        lines.write(json.dumps({"error": str(exc), "for_good": True}) + "\n")
    except Exception as exc:  # noqa: BLE001 - whatever CodeCarbon raises, the exporter is told in one line
        error = f"CodeCarbon does not start: {type(exc).__name__}: {exc}"
        lines.write(json.dumps({"error": error, "for_good": False}) + "\n")


def _end_with_stdin() -> None:
    """End this process with its standard input; a measurement that hangs in the driver is not waited for."""
    while os.read(0, 1024):
        pass
    os._exit(0)


def _measurements(
    gpu_indices: list[int], country_iso_code: str | None, period_s: float
) -> Iterator[dict[str, Any]]:
    """One at once and one for each period; one that fails is left out, but for the first."""
    from llem_measure.backends import codecarbon

    newest: dict[str, Any] = {}
    tracker = codecarbon.open_tracker(
        gpu_indices,
        country_iso_code,
        measure_power_secs=NEVER_SECONDS,
        output_handlers=[codecarbon.handler(lambda total: newest.update(unix_s=time.time(), **total))],
    )
    codecarbon.look_at_hardware(tracker)
    tracker.start()
    due_s = time.monotonic() + FIRST_SECONDS
    while True:
        time.sleep(max(0.0, due_s - time.monotonic()))
        begun_s = time.monotonic()
        measured = tracker.flush() is not None  # it logs its errors and raises none
        if measured:
            yield {**newest, "duration_s": time.monotonic() - begun_s}
        elif not newest:
            raise RuntimeError("it measures nothing; run `codecarbon detect` for the reason")
        due_s = max(due_s + period_s, time.monotonic())


if __name__ == "__main__":
    main()
