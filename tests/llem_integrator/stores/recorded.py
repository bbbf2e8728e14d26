"""Samples that every store must give back, and what llem-integrate makes of them."""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from tests.llem_integrator.conftest import Done
from tests.llem_integrator.pages import T0, page, scraped, trace

WINDOWS_MS = ((0, 120_000), (13_337, 98_765), (41_000, 46_000), (99_950, 100_050), (60_000, 61_000))
"""Start and end of windows, in ms after T0."""


def recorded() -> str:
    """Three GPUs for two minutes: one has a trace with a gap, one has all counters, one restarts."""
    noise = random.Random(11)
    steps = [ms for ms in range(0, 120_000, 100) if not 40_000 < ms < 47_000]
    return page(
        trace(0, [(ms, round(noise.gauss(400, 60) * 8) / 8) for ms in steps]),
        scraped(0, watts=401.5, zeus=False),
        scraped(1, watts=212.25),
        scraped(2, watts=99.0, started_s=50, zeus=False),
    )


def windows(*options: str, windows_ms: Sequence[tuple[int, int]] = WINDOWS_MS) -> list[str]:
    """Return the options that ask for these windows as JSON, however little of a window is covered."""
    edges_s = [((T0 + start_ms) / 1000, (T0 + end_ms) / 1000) for start_ms, end_ms in windows_ms]
    asked = [f"--window={start_s:.3f},{end_s:.3f}" for start_s, end_s in edges_s]
    return [*asked, "--min-coverage=0.5", "--format=json", *options]


def integrated(
    llem_integrate: Callable[..., Done],
    source: str,
    *options: str,
    windows_ms: Sequence[tuple[int, int]] = WINDOWS_MS,
) -> list[Any]:
    """Return the windows that llem-integrate prints of a source, by `auto`, nvml and zeus."""
    found = []
    for backend in ("auto", "nvml", "zeus"):
        asked = windows(f"--backend={backend}", *options, windows_ms=windows_ms)
        done = llem_integrate(f"--source={source}", *asked)
        assert done.stdout, done.stderr
        found += json.loads(done.stdout.replace(source, "SOURCE"))["windows"]
    return found
