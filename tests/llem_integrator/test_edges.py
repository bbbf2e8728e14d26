"""Inputs after public reports, on which a confident answer would be wrong."""

from pathlib import Path

import numpy as np
import pytest

from llem_core.backend import Backend
from llem_integrator.integration import integrate
from llem_integrator.results.fields import WindowResult
from llem_integrator.results.request import Request
from llem_integrator.series.samples import make_series
from llem_integrator.stores import open_source
from llem_integrator.windows.window import Window, parse_window
from tests.llem_integrator.clusters import T0 as CLUSTER_T0
from tests.llem_integrator.clusters import scraped as cluster_scrapes
from tests.llem_integrator.clusters import store
from tests.llem_integrator.pages import T0, page, parse, scraped, series, trace

CASES = Path(__file__).parent / "cases"
TEN_MINUTES = "1795503600,+10m"


def result_of(case: str, window: str, request: Request | None = None) -> WindowResult:
    windows = [parse_window(window, 0, None)]
    return next(integrate(open_source(str(CASES / f"{case}.om.gz")), windows, request or Request()))


def codes(result: WindowResult) -> list[str]:
    return [str(warning.code) for warning in result.warnings]


@pytest.mark.parametrize("case", ["zero-counter", "frozen-counter"])
def test_a_counter_that_stands_still_has_not_measured_anything(case: str) -> None:
    """A counter of 0 J, or of a constant value, beside 247 W does not win. nvml does, with a warning."""
    result = result_of(case, TEN_MINUTES)
    assert (result.backend, result.total_j, codes(result)) == ("nvml", 148_200.0, ["counter_stuck"])
    named = result_of(case, TEN_MINUTES, Request(backend=Backend.ZEUS))
    assert (named.total_j, named.valid) == (None, False)


def test_a_clock_that_is_ahead_is_not_believed() -> None:
    """If read times and scrape times differ by 90 s, the times of the scrapes count."""
    right, ahead = (result_of(case, TEN_MINUTES) for case in ("clock-right", "clock-ahead90"))
    assert right.total_j == pytest.approx(419_970)
    assert (codes(right), codes(ahead)) == ([], ["clock_skew"])
    assert ahead.total_j == pytest.approx(420_000)
    low, high = ahead.gpus[0].joules_low, ahead.gpus[0].joules_high
    assert low is not None
    assert high is not None
    assert low < 419_970 < high


def test_an_exporters_counter_without_its_seconds_counts_by_its_steps() -> None:
    """Without llem_gpu_integrated_seconds_total, a regular step of nvml's counter is covered."""
    result = result_of("nvml-only", "1795503600,+1h", Request(backend=Backend.NVML))
    assert (result.total_j, result.valid) == (1_440_000.0, True)


def test_a_window_has_the_same_joules_alone_and_together() -> None:
    """The exporter that covers all of the window is chosen, whichever other windows are asked for."""
    window = parse_window("1795507546,1795550686", 0, None)
    step_us = (window.end_us - window.start_us) // 13
    others = [Window(window.start_us + n * step_us, window.start_us + (n + 1) * step_us) for n in range(12)]
    source = open_source(str(CASES / "alone-or-together.om.gz"))
    (alone,) = integrate(source, [window], Request(backend=Backend.NVML))
    *_, together = integrate(source, [*others, window], Request(backend=Backend.NVML))
    assert alone.total_j == together.total_j == pytest.approx(16_031_134.55, abs=0.01)
    assert alone == together


def test_a_counter_that_stands_still_for_a_part_covers_the_rest() -> None:
    """For 60 of 120 s the counter is frozen: that time is not covered, and power does not fill it."""
    seconds = list(range(0, 301, 5))
    lines = scraped(0, zeus=False, seconds=seconds)
    labels = {"gpu": "0", "uuid": "GPU-0", "instance": "n1:9955"}
    joules = [(s * 1000, 1e6 + 100.0 * (min(s, 90) + max(0, s - 150))) for s in seconds]
    lines += series("llem_gpu_zeus_energy_joules_total", labels, joules)
    windows = [Window((T0 + 60_000) * 1000, (T0 + 180_000) * 1000)]
    request = Request(backend=Backend.ZEUS, min_coverage=0.4)
    (result,) = integrate(parse(page(lines), "page"), windows, request)
    (gpu,) = result.gpus
    assert gpu.joules == pytest.approx(6000, abs=50)
    assert gpu.covered_s == pytest.approx(60, abs=1)
    assert "counter_stuck" in codes(result)


def test_a_trace_without_scrapes_shows_a_counter_that_stands_still() -> None:
    """An exporter's history has no scraped series. The power trace beside it gives the verdict."""
    labels = {"gpu": "0", "uuid": "GPU-0", "instance": "n1:9955"}
    times = range(0, 120_000, 100)
    frozen = series("llem_gpu_zeus_energy_trace_joules_total", labels, [(ms, 5e6) for ms in times])
    text = page(frozen, trace(0, [(ms, 247.0) for ms in times]))
    (result,) = integrate(
        parse(text, "page"), [Window((T0 + 30_000) * 1000, (T0 + 90_000) * 1000)], Request()
    )
    assert result.backend == "nvml"
    assert result.total_j == pytest.approx(247 * 60)
    assert "counter_stuck" in codes(result)


@pytest.mark.parametrize(("before_ms", "after_ms"), [(500, 100), (100, 500)])
def test_an_exporter_restarted_with_another_interval_covers_both_parts(before_ms: int, after_ms: int) -> None:
    """max_gap follows the interval that held at the time, also between the restart and the next scrape."""
    change, end = 100_000, 400_000
    times = [*range(0, change, before_ms), *range(change, end, after_ms)]
    holed = [ms for ms in times if not 250_000 < ms < 251_700]
    interval = [(s * 1000, (before_ms if s * 1000 < change else after_ms) / 1000) for s in range(10, 400, 15)]
    text = "\n".join(
        [
            *series("llem_sampler_interval_seconds", {"instance": "n1:9955"}, interval),
            *trace(0, [(ms, 100.0) for ms in holed]),
            "# EOF\n",
        ]
    )
    (result,) = integrate(
        parse(text, "page"), [Window((T0 + 50_000) * 1000, (T0 + 350_000) * 1000)], Request()
    )
    (gpu,) = result.gpus
    hole_s = (min(ms for ms in holed if ms > 251_000) - max(ms for ms in holed if ms < 251_000)) / 1000
    assert gpu.gap_s == pytest.approx(hole_s)
    assert gpu.joules == pytest.approx(100 * (300 - hole_s))


def test_a_gauge_that_is_scraped_more_slowly_has_all_its_joules() -> None:
    """A gauge at 15 s, then at 60 s, is integrated over all of the time, and bounds only by the limit."""
    seconds = [*range(0, 901, 15), *range(960, 3001, 60)]
    lines = [
        line for line in scraped(0, seconds=seconds) if line.startswith(("llem_gpu_info", "llem_gpu_power"))
    ]
    (result,) = integrate(
        parse(page(lines), "page"), [Window((T0 + 300_000) * 1000, (T0 + 2_700_000) * 1000)], Request()
    )
    (gpu,) = result.gpus
    assert gpu.joules == pytest.approx(240_000)
    assert (gpu.coverage, gpu.joules_low, gpu.joules_high) == (1.0, 0.0, 2400 * 700.0)


def test_a_sample_above_any_limit_is_a_bad_sample() -> None:
    """One reading of 1e14 W beside a limit of 700 W is not integrated."""
    samples = [(ms, 1e14 if ms == 60_000 else 100.0) for ms in range(0, 120_000, 100)]
    request = Request(backend=Backend.NVML)
    text = page(scraped(0), trace(0, samples))
    (result,) = integrate(parse(text, "page"), [Window((T0 + 30_000) * 1000, (T0 + 90_000) * 1000)], request)
    assert result.total_j == pytest.approx(6000)
    assert "bad_samples" in codes(result)


def test_the_peak_of_a_constant_load_is_its_power() -> None:
    """A rounding error of the mean does not hide the peak, and the mean is never above it."""
    watts = 560.1
    for start in range(40, 60):
        window = Window((T0 + start * 1000 + 300) * 1000, (T0 + start * 1000 + 30_417) * 1000)
        (result,) = integrate(parse(page(scraped(0, watts=watts)), "page"), [window], Request())
        (gpu,) = result.gpus
        assert gpu.peak_watts == pytest.approx(watts)
        assert gpu.mean_watts is not None
        assert gpu.peak_watts is not None
        assert gpu.mean_watts <= gpu.peak_watts


def test_companions_that_are_missing_affect_only_their_readings() -> None:
    """Read times that end in the middle of the window: later readings use the time of the scrape."""
    lines = [
        line
        for line in scraped(0)
        if not (
            line.startswith("llem_gpu_sample_timestamp") and float(line.split()[-1]) > (T0 + 60_000) / 1000
        )
    ]
    request = Request(backend=Backend.ZEUS)
    (result,) = integrate(
        parse(page(lines), "page"), [Window((T0 + 20_000) * 1000, (T0 + 100_000) * 1000)], request
    )
    (gpu,) = result.gpus
    assert gpu.coverage == 1.0
    assert gpu.joules == pytest.approx(8000, abs=30)


@pytest.mark.parametrize("backend", [Backend.ZEUS, Backend.NVML])
def test_a_longer_window_of_the_same_data_never_covers_less(backend: Backend) -> None:
    """An exporter's history of 330 s, and windows that begin up to 1000 s before it."""
    labels = {"gpu": "0", "uuid": "GPU-0", "instance": "n1:9955"}
    times = range(0, 330_000, 100)
    counter = [(ms, 2e9 + 343.0 * ms / 1000) for ms in times]
    text = page(
        series("llem_gpu_zeus_energy_trace_joules_total", labels, counter),
        trace(0, [(ms, 343.0) for ms in times]),
    )
    for lead_s in (100, 170, 370, 1000):
        window = Window((T0 - lead_s * 1000) * 1000, (T0 + 329_000) * 1000)
        (result,) = integrate(parse(text, "page"), [window], Request(backend, min_coverage=0.1))
        (gpu,) = result.gpus
        assert (gpu.joules, gpu.covered_s) == (343.0 * 329, 329.0)
        assert gpu.joules_low is not None
        assert gpu.joules_low > 0.999 * 343 * 329


@pytest.mark.parametrize("scrape_s", [15, 60])
@pytest.mark.parametrize("idle", [False, True])
def test_a_healthy_day_is_calm(scrape_s: int, idle: bool) -> None:
    """24 h of bursts, or of 3 W, scraped every 15 or 60 s: zeus is chosen, and there is no warning."""
    rng = np.random.default_rng(6)
    columns = cluster_scrapes(0, 0, 86_400, rng, scrape_s=scrape_s)
    if idle:
        read_s = columns["llem_gpu_sample_timestamp_seconds"][0].values - CLUSTER_T0 / 1000
        for name, values in {
            "llem_gpu_power_watts": np.full(len(read_s), 3.0),
            "llem_gpu_zeus_energy_joules_total": np.rint((1e6 + 3.0 * read_s) * 8) / 8,
            "llem_gpu_nvml_energy_joules_total": 3.0 * read_s,
        }.items():
            (series_of,) = columns[name]
            columns[name] = [make_series(series_of.labels, series_of.unix_ms, values)]
    edges_s = [(600, 85_000), *((start, start + 1800) for start in range(600, 80_000, 3333))]
    windows = [Window((CLUSTER_T0 + a * 1000) * 1000, (CLUSTER_T0 + b * 1000) * 1000) for a, b in edges_s]
    for result in integrate(store(columns), windows, Request()):
        assert (result.backend, result.valid, result.warnings) == ("zeus", True, ())


def test_a_reset_in_a_trace_is_found_beside_gpus_that_are_scraped() -> None:
    """One node is scraped, of the other there is only the history: its counter fell between the edges."""
    labels = {"gpu": "0", "uuid": "GPU-9", "instance": "n2:9955"}
    fell_ms = 400_000
    counter = [(ms, 1e6 + ms / 10 if ms < fell_ms else (ms - fell_ms) / 10) for ms in range(0, 900_000, 100)]
    text = page(
        scraped(0, seconds=range(0, 901, 15)),
        series("llem_gpu_zeus_energy_trace_joules_total", labels, counter),
    )
    (result,) = integrate(
        parse(text, "page"), [Window((T0 + 100_000) * 1000, (T0 + 800_000) * 1000)], Request(Backend.ZEUS)
    )
    (gpu,) = (gpu for gpu in result.gpus if gpu.uuid == "GPU-9")
    assert (gpu.resets, gpu.coverage) == (1, 1.0)
    assert gpu.joules == pytest.approx(70_000, abs=15)


def test_what_a_page_still_shows_of_a_gpu_that_hangs_is_no_reading() -> None:
    """The counter was reset during 20 s without a reading time: the bounds allow for all of these."""
    seconds = range(0, 181, 5)
    labels = {"gpu": "0", "uuid": "GPU-0", "instance": "n1:9955"}
    hung = (60, 80)  # it drew 300 W, was reset at 75 s, and the page showed the value of 60 s
    joules = [(s * 1000, 1e6 + 300.0 * min(s, hung[0]) if s < hung[1] else 300.0 * (s - 75)) for s in seconds]
    lines = series("llem_gpu_zeus_energy_joules_total", labels, joules)
    read = [(s * 1000, T0 / 1000 + s) for s in seconds if not hung[0] < s < hung[1]]
    lines += series("llem_gpu_sample_timestamp_seconds", labels, read)
    lines += series("llem_gpu_power_limit_watts", labels, [(s * 1000, 700.0) for s in seconds])
    window = Window((T0 + 30_000) * 1000, (T0 + 150_000) * 1000)
    (result,) = integrate(parse(page(lines), "page"), [window], Request(Backend.ZEUS))
    (gpu,) = result.gpus
    assert gpu.joules_low is not None
    assert gpu.joules_high is not None
    assert gpu.resets == 1
    assert gpu.joules_low <= 300 * 120 <= gpu.joules_high


def test_a_skewed_clock_does_not_mix_scrapes_with_the_trace() -> None:
    """The exporter's clock is 90 s ahead: its trace is not merged with readings at the scrapes' times."""
    labels = {"gpu": "0", "uuid": "GPU-0", "instance": "n1:9955"}
    ahead_ms = 90_000
    counter = [(ms + ahead_ms, 2e9 + ms / 10) for ms in range(0, 900_000, 100)]
    text = page(
        scraped(0, seconds=range(0, 901, 5), read_late_ms=-ahead_ms),
        series("llem_gpu_zeus_energy_trace_joules_total", labels, counter),
        trace(0, [(ms + ahead_ms, 100.0 if ms < 400_000 else 500.0) for ms in range(0, 900_000, 100)]),
    )
    window = Window((T0 + 410_000) * 1000, (T0 + 770_000) * 1000)
    (zeus,) = integrate(parse(text, "page"), [window], Request(Backend.ZEUS))
    assert zeus.total_j == pytest.approx(36_000, abs=10)
    assert zeus.gpus[0].resets == 0
    (nvml,) = integrate(parse(text, "page"), [window], Request(Backend.NVML))
    assert nvml.total_j == pytest.approx(36_000, abs=50)
    assert codes(zeus) == codes(nvml) == ["clock_skew"]


def test_a_piece_of_impossible_samples_alone_is_a_warning() -> None:
    """A sensor that shows 65,535 W for a minute is not measured, and the counter is."""
    labels = {"gpu": "0", "uuid": "GPU-0", "instance": "n1:9955"}
    times = range(0, 120_000, 100)
    counter = series("llem_gpu_zeus_energy_trace_joules_total", labels, [(ms, 1e6 + ms / 10) for ms in times])
    text = page(counter, trace(0, [(ms, 65_535.0) for ms in times]))
    (result,) = integrate(
        parse(text, "page"), [Window((T0 + 30_000) * 1000, (T0 + 90_000) * 1000)], Request()
    )
    assert (result.backend, result.total_j) == ("zeus", 6000.0)
    assert codes(result) == ["bad_samples"]


def test_an_impossible_gauge_is_not_integrated() -> None:
    """One scrape of 60,000 W beside a limit of 700 W is no sample, nor is it the peak."""
    lines = [line for line in scraped(0) if line.startswith(("llem_gpu_info", "llem_gpu_power"))]
    lines = [
        line.replace("} 100.0 ", "} 60000.0 ") if line.endswith(str((T0 + 60_000) // 1000) + ".000") else line
        for line in lines
    ]
    (result,) = integrate(
        parse(page(lines), "page"), [Window((T0 + 30_000) * 1000, (T0 + 90_000) * 1000)], Request()
    )
    (gpu,) = result.gpus
    assert (gpu.joules, gpu.peak_watts) == (6000.0, 100.0)


def test_label_sets_with_unlike_intervals_each_have_their_own_gaps() -> None:
    """A hole of 6 s is a gap at 0.1 s, also when the GPU moves later to an exporter that samples at 10 s."""
    times = [*range(0, 200_000, 100), *range(206_000, 500_000, 100)]
    fast = trace(0, [(ms, 100.0) for ms in times])
    slow = trace(0, [(ms, 100.0) for ms in range(500_000, 1_100_000, 10_000)], instance="n2:9955")
    both = [
        *series(
            "llem_sampler_interval_seconds",
            {"instance": "n1:9955"},
            [(ms, 0.1) for ms in range(0, 500_000, 15_000)],
        ),
        *series(
            "llem_sampler_interval_seconds",
            {"instance": "n2:9955"},
            [(ms, 10) for ms in range(500_000, 1_100_000, 15_000)],
        ),
    ]
    text = "\n".join([*both, *fast, *slow, "# EOF\n"])
    first, second = (
        Window((T0 + a * 1000) * 1000, (T0 + b * 1000) * 1000) for a, b in ((100, 500), (500, 1090))
    )
    (alone,) = integrate(parse(text, "page"), [first], Request())
    together, _ = integrate(parse(text, "page"), [first, second], Request())
    assert alone == together
    assert alone.gpus[0].gap_s == pytest.approx(6.1)
