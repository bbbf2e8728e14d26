"""Random stores and windows: label sets that move, replicas, holes, resets, restarts, frozen counters."""

import numpy as np

from llem_integrator.series.matchers import Selector, parse_selector
from llem_integrator.windows.window import Window
from tests.llem_integrator.clusters import T0, Columns, PieceStore, intervals, scraped, store, trace

SECONDS = 4 * 3600
_DROPPED = (
    "llem_gpu_sample_timestamp_seconds",
    "llem_gpu_integrated_seconds_total",
    "llem_gpu_zeus_energy_joules_total",
    "llem_gpu_nvml_energy_joules_total",
    "llem_gpu_power_limit_watts",
)
_SELECTORS = ("", 'instance="n1:9955"', 'instance=~"n[12].*"', 'replica="a"', 'gpu!="1"')


def random_store(rng: np.random.Generator) -> PieceStore:
    """A store of one to three GPUs, cut into random pieces."""
    columns: list[Columns] = [intervals(SECONDS)] if rng.random() < 0.7 else []
    for gpu in range(int(rng.integers(1, 4))):
        columns += _random_gpu(gpu, rng)
    cuts_ms = sorted({T0 + int(cut) for cut in rng.integers(0, SECONDS * 1000, rng.integers(0, 6))})
    return store(*columns, cuts_ms=cuts_ms)


def _random_gpu(gpu: int, rng: np.random.Generator) -> list[Columns]:
    columns: list[Columns] = []
    if rng.random() < 0.5:
        seconds, holes = int(rng.integers(60, SECONDS)), int(rng.integers(0, 5))
        columns.append(
            trace(gpu, seconds, rng, holes=holes, replica="a")
            if rng.random() < 0.3
            else trace(gpu, seconds, rng, holes=holes)
        )
    for replica in ("a", "b")[: int(rng.integers(0, 3))]:
        moved_s = int(rng.integers(60, SECONDS - 60))
        scrape_s = int(rng.choice([5, 15, 30, 60]))
        resets = [int(rng.integers(30, moved_s))] if rng.random() < 0.3 else []
        first = scraped(gpu, 0, moved_s, rng, resets_s=resets, scrape_s=scrape_s, more={"replica": replica})
        elsewhere = {"replica": replica, "instance": "n2:9955"}
        second = scraped(
            gpu,
            moved_s + int(rng.integers(1, 90)),
            SECONDS,
            rng,
            started_s=moved_s,
            scrape_s=scrape_s,
            more=elsewhere,
        )
        columns += (
            [_damaged(first, rng), _damaged(second, rng)] if rng.random() < 0.7 else [_damaged(first, rng)]
        )
    return columns


def _damaged(columns: Columns, rng: np.random.Generator) -> Columns:
    """Some families missing, or from some time on; some scrapes missing; a counter that stands still."""
    damaged = dict(columns)
    for name in _DROPPED:
        (series,) = damaged[name]
        chance = rng.random()
        if chance < 0.1:
            del damaged[name]
        elif chance < 0.25:
            stop = int(rng.integers(0, len(series) + 1))
            damaged[name] = [series.part(0, stop)]
        elif chance < 0.35 and name.endswith("joules_total"):
            series.values[int(rng.integers(0, len(series) + 1)) :] = series.values[0]
    if rng.random() < 0.3:
        for name, (series,) in list(damaged.items()):
            keep = np.random.default_rng(7).random(len(series)) < 0.9
            part = series.part(0, len(series))
            damaged[name] = [type(part)(part.labels, part.unix_ms[keep], part.values[keep])]
    return damaged


def random_windows(rng: np.random.Generator) -> list[Window]:
    """Two to seven windows with edges anywhere, some with matchers of their own."""
    windows = []
    for number in range(int(rng.integers(2, 8))):
        start_us = int(rng.integers(-60_000_000, SECONDS * 1_000_000))
        length_us = int(rng.choice([50_000, 3_300_000, 61_700_000, 600_000_000]))
        text = str(rng.choice(_SELECTORS))
        selectors: tuple[Selector, ...] | None = (parse_selector(text),) if text else None
        begin_us = T0 * 1000 + start_us
        windows.append(Window(begin_us, begin_us + length_us, f"w{number}", selectors))
    return windows
