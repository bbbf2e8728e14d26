"""CodeCarbon in a process of its own: `python -m llem_exporter.carbon_worker`, started by carbon.py.

Its import and its measurements hold an interpreter's lock for longer than a tick allows. It reads one
line of JSON, the settings, and writes one line of JSON for each measurement. It ends when its
standard input does, so it never outlives the exporter.
"""

import json
import os
import signal
import sys
import time
from typing import Any, TextIO


def main() -> None:
    """Measure until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the exporter, which ends this
    # Libraries print on standard output; what they print must not be taken for a measurement.
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    settings = json.loads(sys.stdin.readline())
    try:
        tracker = _start(settings, lines)
    except Exception as exc:  # noqa: BLE001 - whatever CodeCarbon raises, the exporter is told in one line
        lines.write(json.dumps({"error": f"{type(exc).__name__}: {exc}"}) + "\n")
        return
    sys.stdin.read()
    tracker.stop()


def _start(settings: dict[str, Any], lines: TextIO) -> Any:
    """A running tracker that writes a line for each of its measurements."""
    from llem_exporter.energy_backends import codecarbon

    def on_measured(total: dict[str, Any]) -> None:
        lines.write(json.dumps({"unix_s": time.time(), **total}) + "\n")

    tracker = codecarbon.open_tracker(
        settings["gpu_indices"],
        settings["country_iso_code"],
        measure_power_secs=settings["period_s"],
        api_call_interval=1,
        output_handlers=[codecarbon.handler(on_measured)],
    )
    tracker.start()
    return tracker


if __name__ == "__main__":
    main()
