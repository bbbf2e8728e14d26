"""Which series are whose, which backend answers, and what is said of it."""

import pytest

from llem_core.backend import Backend
from llem_core.measurement import WarningCode
from llem_integrator.integration import integrate
from llem_integrator.results.fields import WindowResult
from llem_integrator.results.request import Request
from llem_integrator.stores import parse_selector
from llem_integrator.windows.window import Window
from tests.llem_integrator.pages import T0, page, parse, scraped, series, trace

HALF_MINUTE = (43.3, 73.3)


def answer(
    text: str, seconds: tuple[float, float] = HALF_MINUTE, request: Request | None = None
) -> WindowResult:
    start, end = (T0 * 1000 + round(second * 1e6) for second in seconds)
    return next(iter(integrate(parse(text, "page"), [Window(start, end)], request or Request())))


def codes(result: WindowResult) -> list[str]:
    return [str(warning.code) for warning in result.warnings]


def test_zeus_comes_first_and_nvml_is_reported_beside_it() -> None:
    """auto selects the hardware counter and also reports the joules of nvml for the same window."""
    result = answer(page(scraped(0), scraped(1, watts=250.0)))
    assert (result.backend, result.valid, result.scope, result.warnings) == ("zeus", True, "gpu", ())
    assert [gpu.joules for gpu in result.gpus] == pytest.approx([3000, 7500], rel=1e-12)
    assert result.total_j == pytest.approx(10_500)
    for gpu in result.gpus:
        assert gpu.method == "counter"
        assert gpu.coverage == 1.0
        assert gpu.joules is not None
        assert gpu.joules_by_backend == pytest.approx({"zeus": gpu.joules, "nvml": gpu.joules}, rel=1e-12)
        assert (gpu.name, gpu.instances, gpu.max_gap_s, gpu.resets) == ("H100", ("n1:9955",), 15.0, 0)
        assert gpu.joules_low is not None
        assert gpu.joules_high is not None
        assert gpu.joules_low < gpu.joules < gpu.joules_high
    usable = {one.backend: one.usable for one in result.considered}
    assert usable == {Backend.ZEUS: True, Backend.NVML: True, Backend.CODECARBON: False}


def test_a_value_belongs_to_when_it_was_read() -> None:
    """Two scrapers that read the same counter with different delays give the same joules."""
    early, late = (answer(page(scraped(0, read_late_ms=ms))).gpus[0].joules for ms in (0, 390))
    assert early == pytest.approx(late, rel=1e-9)


def test_the_trace_is_taken_where_it_covers() -> None:
    """nvml is the trapezoid of the trace if the trace covers the window, else the exporter's counter."""
    samples = [(ms, 100.0) for ms in range(0, 120_000, 100)]
    named = Request(backend=Backend.NVML)
    full = answer(page(scraped(0), trace(0, samples)), request=named)
    assert (full.gpus[0].method, full.gpus[0].max_gap_s, full.gpus[0].sample_count) == ("trapezoid", 0.3, 301)
    half = answer(page(scraped(0), trace(0, samples[:500])), request=named)
    assert (half.gpus[0].method, half.gpus[0].coverage) == ("counter", 1.0)


def test_the_trace_serves_the_edges_of_the_counter() -> None:
    """If only the counter covers the middle, the trace gives more exact edges than interpolation."""

    # 100 W until 44 s, then 300 W: the counter knows only what each 5 s step rose by in all.
    def joules_at(second: float) -> float:
        return 100 * second + 200 * max(0.0, second - 44)

    labels = {"gpu": "0", "uuid": "GPU-0", "instance": "n1:9955"}
    scrapes = range(0, 121, 5)
    joules = [(s * 1000, joules_at(s)) for s in scrapes]
    counter = series("llem_gpu_nvml_energy_joules_total", labels, joules)
    counter += series("llem_gpu_integrated_seconds_total", labels, [(s * 1000, float(s)) for s in scrapes])
    near_the_edges = [*range(40_000, 52_000, 100), *range(70_000, 78_000, 100)]
    watts = trace(0, [(ms, 100.0 if ms < 44_000 else 300.0) for ms in near_the_edges])
    mixed, plain = answer(page(counter, watts)).gpus[0], answer(page(counter)).gpus[0]
    true = joules_at(73.3) - joules_at(43.3)
    assert mixed.joules == pytest.approx(true, abs=11)
    assert plain.joules == pytest.approx(true, abs=300)
    assert abs((plain.joules or 0) - true) > 40
    assert (mixed.method, mixed.coverage, mixed.gap_s) == ("counter", 1.0, 0.0)


def test_trace_replicas_merge_by_time() -> None:
    """Two servers, each with another half of the trace, give the whole trace."""
    one = trace(0, [(ms, 100.0) for ms in range(0, 60_000, 100)], replica="a")
    two = trace(0, [(ms, 100.0) for ms in range(40_000, 120_000, 100)], replica="b")
    result = answer(page(one, two))
    assert result.gpus[0].joules == pytest.approx(3000)
    assert (result.gpus[0].coverage, result.backend) == (1.0, "nvml")


def test_conflicting_trace_samples_are_said() -> None:
    """For different values at the same time, the larger one is used, with a warning."""
    one = trace(0, [(ms, 100.0) for ms in range(0, 120_000, 100)], replica="a")
    result = answer(page(one, trace(0, [(60_000, 90.0)], replica="b")))
    assert result.gpus[0].joules == pytest.approx(3000)
    assert "conflicting_samples" in codes(result)


def test_the_gauge_serves_only_where_nothing_else_is() -> None:
    """Without a trace and a counter, the scraped gauge is integrated in the same way."""
    lines = [line for line in scraped(0) if line.startswith(("llem_gpu_info", "llem_gpu_power"))]
    result = answer(page(lines))
    assert (result.backend, result.gpus[0].method) == ("nvml", "trapezoid")
    assert result.gpus[0].joules == pytest.approx(3000)


def test_two_replicas_of_one_counter_never_look_like_a_reset() -> None:
    """HA replicas with different scrape times are not merged, so there is no reset."""
    one = scraped(0, prometheus_replica="a")
    two = scraped(0, prometheus_replica="b", seconds=range(2, 121, 5), read_late_ms=10)
    result = answer(page(one, two))
    assert result.gpus[0].joules == pytest.approx(3000)
    assert result.gpus[0].resets == 0


def test_a_gpu_is_its_uuid_across_instances() -> None:
    """A pod that moved leaves two label sets of one GPU. The hardware counter has no reset."""
    before = scraped(0, seconds=range(0, 60, 5))
    after = scraped(3, seconds=range(60, 121, 5), uuid="GPU-0", instance="10.0.0.7:9955", started_s=58)
    result = answer(page(before, after))
    assert len(result.gpus) == 1
    gpu = result.gpus[0]
    assert gpu.joules == pytest.approx(3000)
    assert (gpu.coverage, gpu.resets) == (1.0, 0)
    assert gpu.instances == ("10.0.0.7:9955", "n1:9955")
    nvml = answer(page(before, after), request=Request(backend=Backend.NVML)).gpus[0]
    assert nvml.resets == 1
    assert nvml.gap_s == pytest.approx(58 - 54.8)


def test_a_scrape_gap_is_nothing_to_a_hardware_counter() -> None:
    """A minute without scrapes inside the window is no gap. At an edge it is one."""
    holed = page(scraped(0, seconds=[*range(0, 31, 5), *range(90, 121, 5)]))
    inside = answer(holed, (20.0, 110.0))
    assert inside.gpus[0].joules == pytest.approx(9000)
    assert inside.gpus[0].coverage == 1.0
    cut = answer(holed, (20.0, 60.0))
    assert (cut.reasons, cut.valid) == (("coverage",), False)
    assert cut.gpus[0].gap_s == pytest.approx(60 - 29.8)
    assert "sample_gap" in codes(cut)


def test_half_covered() -> None:
    """A window whose first half is before the data has coverage 0.5."""
    result = answer(page(scraped(0, read_late_ms=0)), (-30.0, 30.0))
    assert (result.gpus[0].coverage, result.reasons) == (0.5, ("coverage",))


def test_the_newest_samples_are_missing() -> None:
    """If a window ends after the newest sample, a warning has the missing seconds."""
    result = answer(page(scraped(0, read_late_ms=0)), (100.0, 125.0))
    assert codes(result) == ["sample_gap", "newest_missing"]
    assert "5.000 s" in result.warnings[1].message


def test_before_the_data_there_is_nothing() -> None:
    """A window before the data has no GPUs and no joules. The reason is no_data."""
    result = answer(page(scraped(0)), (-600.0, -500.0))
    assert (result.gpus, result.total_j, result.reasons, result.backend) == ((), None, ("no_data",), "none")


def test_no_total_where_a_gpu_is_missing() -> None:
    """A GPU with only llem_gpu_info has null joules. Then the total is null as well."""
    info = [line for line in scraped(1) if line.startswith("llem_gpu_info")]
    result = answer(page(scraped(0), info))
    assert [gpu.joules for gpu in result.gpus] == [pytest.approx(3000), None]
    assert (result.total_j, result.reasons) == (None, ("no_data",))


def test_each_node_chooses_for_itself() -> None:
    """If one node has no zeus and the other does, the backend is "mixed"."""
    other = scraped(0, uuid="GPU-9", instance="n2:9955", zeus=False)
    result = answer(page(scraped(0), other))
    assert (result.backend, result.valid) == ("mixed", True)
    assert [str(gpu.backend) for gpu in result.gpus] == ["zeus", "nvml"]


def test_on_one_node_all_gpus_share_a_backend() -> None:
    """If one GPU has no energy counter, its whole node uses nvml. The reason names the GPU."""
    result = answer(page(scraped(0), scraped(1, zeus=False)))
    assert result.backend == "nvml"
    assert not result.considered[0].usable
    assert (
        result.considered[0].reason == "no samples for GPU 1 (GPU-1); one backend serves all GPUs of a node"
    )


def test_a_named_backend_without_data_is_no_data() -> None:
    """--backend zeus without zeus data gives no joules, even if nvml has data."""
    result = answer(page(scraped(0, zeus=False)), request=Request(backend=Backend.ZEUS))
    assert (result.gpus[0].joules, result.reasons) == (None, ("no_data",))


def test_backend_none_is_silent() -> None:
    """With "none" there are no joules and no warning. The result is valid."""
    result = answer(page(scraped(0)), request=Request(backend=Backend.NONE))
    assert (result.total_j, result.warnings, result.reasons, result.valid) == (None, (), (), True)


def test_disagreement_beyond_five_percent_is_said() -> None:
    """110 W by zeus and 100 W by nvml for the same window give a warning."""
    lines = [line for line in scraped(0) if "zeus" not in line]
    labels = {"gpu": "0", "uuid": "GPU-0", "instance": "n1:9955"}
    zeus = [(s * 1000, 2e9 + 110 * (s - 0.2)) for s in range(0, 121, 5)]
    result = answer(page(lines, series("llem_gpu_zeus_energy_joules_total", labels, zeus)))
    assert codes(result) == ["backends_disagree"]


def test_only_the_gpus_asked_for() -> None:
    """GPUs are selected by index, UUID or matchers. A missing GPU makes the result no_data."""
    text = page(scraped(0), scraped(1), scraped(0, uuid="GPU-9", instance="n2:9955"))
    assert [gpu.uuid for gpu in answer(text, request=Request(gpus=("1", "GPU-9"))).gpus] == ["GPU-1", "GPU-9"]
    matched = Request(selectors=(parse_selector('instance="n2:9955"'),))
    assert [gpu.uuid for gpu in answer(text, request=matched).gpus] == ["GPU-9"]
    both = Request(selectors=(parse_selector('gpu="0"'), parse_selector('instance="n1:9955"')))
    assert len(answer(text, request=both).gpus) == 3
    missing = answer(text, request=Request(gpus=("0", "7")))
    assert (missing.reasons, missing.total_j) == (("no_data",), None)
    assert "GPU 7 has no samples" in missing.warnings[-1].message


def test_max_gap_can_be_given() -> None:
    """--max-gap overrides the value derived from the samples. The result shows it."""
    result = answer(page(scraped(0)), request=Request(max_gap_ms=1000))
    assert result.gpus[0].max_gap_s == 1.0
    assert result.gpus[0].gap_s == pytest.approx(1.5 + 3.5)


def test_a_reset_counter_is_said() -> None:
    """A driver reload in the window is counted as a reset, with a warning."""
    lines = [line for line in scraped(0) if "zeus" not in line]
    labels = {"gpu": "0", "uuid": "GPU-0", "instance": "n1:9955"}
    zeus = [(s * 1000, (2e9 if s < 60 else -5950) + 100 * s) for s in range(0, 121, 5)]
    result = answer(page(lines, series("llem_gpu_zeus_energy_joules_total", labels, zeus)))
    assert result.gpus[0].resets == 1
    assert "counter_reset" in codes(result)


def carbon(
    watts: dict[str, float], *, grams_per_joule: float | None = 1e-4, restart_s: float = 0.0, **labels: str
) -> list[str]:
    """CodeCarbon's series of a node, scraped every 5 s and measured 1 s before; counting from restart_s."""
    labels = {"instance": "n1:9955", **labels}
    scrapes = range(5_000, 121_000, 5_000)

    def since(ms: int) -> float:
        measured_s = ms / 1000 - 1
        return measured_s - restart_s if measured_s >= restart_s else measured_s

    lines = []
    for part, power in watts.items():
        joules = [(ms, power * since(ms)) for ms in scrapes]
        lines += series("llem_codecarbon_energy_joules_total", {**labels, "component": part}, joules)
    if grams_per_joule is not None:
        grams = [(ms, sum(watts.values()) * since(ms) * grams_per_joule) for ms in scrapes]
        lines += series("llem_codecarbon_emissions_grams_total", labels, grams)
    read_at = [(ms, (T0 + ms - 1000) / 1000) for ms in scrapes]
    return lines + series("llem_codecarbon_sample_timestamp_seconds", labels, read_at)


ALL_PARTS = {"cpu": 50.0, "gpu": 200.0, "ram": 10.0}


def test_codecarbon_comes_third() -> None:
    """Without zeus and nvml, CodeCarbon's gpu component is used. A single GPU gets all of it."""
    info = [line for line in scraped(0) if line.startswith("llem_gpu_info")]
    result = answer(page(info, carbon(ALL_PARTS)))
    assert (result.backend, result.scope, result.valid) == ("codecarbon", "gpu", True)
    assert result.total_j == pytest.approx(6000)
    assert result.gpus[0].joules == pytest.approx(6000)
    beside = answer(page(scraped(0), carbon(ALL_PARTS)))
    assert beside.backend == "zeus"
    assert beside.gpus[0].joules_by_backend["codecarbon"] == pytest.approx(6000)
    assert beside.warnings == (), "it is compared with nothing"


def test_codecarbon_does_not_split_gpus() -> None:
    """With two GPUs, CodeCarbon gives a total but no joules per GPU. The result is not valid."""
    named = Request(backend=Backend.CODECARBON)
    result = answer(page(scraped(0), scraped(1), carbon(ALL_PARTS)), request=named)
    assert result.total_j == pytest.approx(6000)
    assert (set(result.per_gpu_j.values()), result.reasons) == ({None}, ("no_gpu_split",))
    one = answer(
        page(scraped(0), scraped(1), carbon(ALL_PARTS)), request=Request(Backend.CODECARBON, gpus=("0",))
    )
    assert one.total_j is None


@pytest.mark.parametrize("match", ['gpu!="1"', 'instance="n1:9955",uuid!="GPU-1"'])
def test_codecarbons_total_is_not_that_of_the_one_gpu_that_matches(match: str) -> None:
    """CodeCarbon's total includes GPUs that the matchers exclude."""
    selectors = (parse_selector(match),)
    named = answer(
        page(scraped(0), scraped(1), carbon(ALL_PARTS)),
        request=Request(Backend.CODECARBON, selectors=selectors),
    )
    assert (named.valid, named.total_j, named.per_gpu_j) == (False, None, {"GPU-0": None})
    auto = answer(page(scraped(0), scraped(1), carbon(ALL_PARTS)), request=Request(selectors=selectors))
    assert list(auto.gpus[0].joules_by_backend) == ["zeus", "nvml"]


def test_a_node_without_gpus_has_its_cpu_and_ram() -> None:
    """Without GPUs, the total is cpu + ram and the scope is "node"."""
    result = answer(page(carbon(ALL_PARTS)))
    assert (result.backend, result.scope, result.gpus, result.valid) == ("codecarbon", "node", (), True)
    assert result.total_j == pytest.approx(60 * 30)
    assert answer(page(carbon(ALL_PARTS)), request=Request(gpus=("0",))).reasons == ("no_data",)
    early = answer(page(carbon(ALL_PARTS)), (-20.0, 30.0))
    assert early.reasons == ("coverage",)
    (said,) = early.warnings
    assert said.code is WarningCode.SAMPLE_GAP
    assert 20 <= float(said.message.split()[0]) < 30
    short = answer(page(carbon(ALL_PARTS)), (-0.1, 60.0), request=Request(min_coverage=0.9))
    assert short.valid
    assert [one.code for one in short.warnings] == [WarningCode.SAMPLE_GAP]


def test_codecarbon_restarted_covers_nothing_of_that_step() -> None:
    """CodeCarbon counts from 0 after a restart of its exporter. The step with the restart is a gap."""
    info = [line for line in scraped(0) if line.startswith("llem_gpu_info")]
    result = answer(page(info, carbon(ALL_PARTS, restart_s=57.0)))
    assert result.reasons == ("coverage",)
    assert result.gpus[0].gap_s == pytest.approx(5)
    assert result.gpus[0].resets == 1


def test_emissions_are_the_nodes_grams_per_joule() -> None:
    """--emissions multiplies a GPU's joules by CodeCarbon's rate for its node in the window."""
    asked = Request(emissions=True)
    result = answer(page(scraped(0), carbon(ALL_PARTS, grams_per_joule=1e-4)), request=asked)
    assert result.gpus[0].emissions_g == pytest.approx(0.3)
    assert result.warnings == ()
    without = answer(page(scraped(0), carbon(ALL_PARTS, grams_per_joule=None)), request=asked)
    assert without.gpus[0].emissions_g is None
    assert codes(without) == ["emissions_unavailable"]


def test_codecarbon_takes_no_gpus_joules_away() -> None:
    """If no backend covers enough, joules per GPU are preferred to a total without a split."""
    text = page(scraped(0), scraped(1), carbon(ALL_PARTS))
    result = answer(text, (-20.0, 20.0))
    assert (result.backend, result.reasons) == ("zeus", ("coverage",))
    assert None not in result.per_gpu_j.values()
    alone = [line for gpu in (0, 1) for line in scraped(gpu) if line.startswith("llem_gpu_info")]
    result = answer(page(alone, carbon(ALL_PARTS)), (-20.0, 20.0))
    assert (result.backend, result.reasons) == ("codecarbon", ("no_gpu_split", "coverage"))


def test_a_peak_is_never_below_the_mean() -> None:
    """If gauges missed the peak, it is null. The peak gauge is used if its minute is inside the window."""
    lines = [line for line in scraped(0) if not line.startswith("llem_gpu_power_watts")]
    labels = {"gpu": "0", "uuid": "GPU-0", "instance": "n1:9955"}
    low = series("llem_gpu_power_watts", labels, [(s * 1000, 20.0) for s in range(0, 121, 5)])
    assert answer(page(lines, low)).gpus[0].peak_watts is None
    peaks = [(s * 1000, 500.0 if s <= 60 else 300.0) for s in range(0, 121, 5)]
    peak = series("llem_gpu_power_peak_watts", labels, peaks)
    assert answer(page(lines, low, peak)).gpus[0].peak_watts is None, "the window is shorter than a minute"
    assert answer(page(lines, low, peak), (5.0, 115.0)).gpus[0].peak_watts == 300.0


def without_zeus(lines: list[str]) -> list[str]:
    return [line for line in lines if "zeus" not in line]


def test_another_exporters_counter_is_not_a_rise() -> None:
    """If a port leads to another exporter, the step between the two counters is a gap."""
    before = without_zeus(scraped(0, seconds=range(0, 60, 5)))
    after = without_zeus(scraped(0, instance="n1:9956", seconds=range(60, 121, 5), started_s=-86_400))
    gpu = answer(page(before, after)).gpus[0]
    assert gpu.joules == pytest.approx(2500)
    assert gpu.gap_s == pytest.approx(5)
    assert gpu.joules_high is not None
    assert gpu.joules_high > 3000
    info = [line for line in scraped(0) if line.startswith("llem_gpu_info")]
    first, second = carbon({"gpu": 50.0}), carbon({"gpu": 900.0}, job="other")
    cut = [
        *(line for line in first if float(line.split()[-1]) * 1000 < T0 + 58_000),
        *(line for line in second if float(line.split()[-1]) * 1000 > T0 + 58_000),
    ]
    moved = answer(page(info, cut), (43.3, 58.0))
    assert moved.gpus[0].joules == pytest.approx(50 * (54 - 43.3))
    assert moved.reasons == ("coverage",)


def test_a_restart_that_the_joules_do_not_show_is_one() -> None:
    """If joules rise while covered seconds fall, both were reset."""
    labels = {"gpu": "0", "uuid": "GPU-0", "instance": "n1:9955"}
    joules = [(0, 1000.0), (5000, 1500.0), (10_000, 2900.0), (15_000, 3400.0), (20_000, 3900.0)]
    seconds = [(0, 100.0), (5000, 105.0), (10_000, 3.0), (15_000, 8.0), (20_000, 13.0)]
    counter = series("llem_gpu_nvml_energy_joules_total", labels, joules)
    counter += series("llem_gpu_integrated_seconds_total", labels, seconds)
    gpu = answer(page(counter), (0.0, 20.0)).gpus[0]
    assert (gpu.joules, gpu.resets, gpu.gap_s) == (500 + 2900 + 500 + 500, 1, 2.0)


def test_a_hole_is_not_bridged_because_little_was_read_around_it() -> None:
    """A window inside a gap of ten minutes, with one sample near each side, has no joules."""
    lines = scraped(0, seconds=[*range(0, 301, 15), *range(885, 1300, 15)])
    gauge = [line for line in lines if line.startswith(("llem_gpu_info", "llem_gpu_power_watts"))]
    assert answer(page(gauge), (588.0, 597.0)).total_j is None


def test_a_changed_interval_is_no_gap() -> None:
    """max_gap follows the interval that held at the time: 5 s first, then 30 s."""
    lines = scraped(0, seconds=[*range(0, 301, 5), *range(330, 1300, 30)])
    gauge = [line for line in lines if line.startswith(("llem_gpu_info", "llem_gpu_power"))]
    windows = [Window(T0 * 1000 + a * 10**6, T0 * 1000 + b * 10**6) for a, b in ((10, 200), (950, 1200))]
    first, second = integrate(parse(page(gauge), "page"), windows, Request())
    assert first.gpus[0].max_gap_s == 15.0
    assert (second.gpus[0].max_gap_s, second.gpus[0].joules) == (90.0, 25_000.0)


def test_a_renumbered_gpu_has_the_index_of_the_window() -> None:
    """If cards swapped their numbers before the window, the numbers in the window are used."""
    text = page(
        scraped(0, uuid="GPU-A", seconds=range(0, 61, 5)),
        scraped(1, uuid="GPU-B", seconds=range(0, 61, 5), watts=250.0),
        scraped(1, uuid="GPU-A", seconds=range(65, 301, 5)),
        scraped(0, uuid="GPU-B", seconds=range(65, 301, 5), watts=250.0),
    )
    result = answer(text, (200.0, 230.0))
    assert {gpu.uuid: gpu.gpu for gpu in result.gpus} == {"GPU-A": "1", "GPU-B": "0"}
    assert [gpu.uuid for gpu in answer(text, (200.0, 230.0), Request(gpus=("0",))).gpus] == ["GPU-B"]


def test_label_sets_beside_the_window_serve_its_edges() -> None:
    """Label sets that end before the window or begin after it give the edges of a hardware counter."""
    before = scraped(0, seconds=range(0, 45, 5), read_late_ms=0)
    after = scraped(0, instance="n1:9956", seconds=range(46, 121, 5), read_late_ms=0)
    whole = answer(page(before, after), (43.3, 73.3)).gpus[0]
    assert whole.coverage == 1.0
    assert whole.joules == pytest.approx(3000)
    between = answer(page(before, after), (41.0, 45.0)).gpus[0]
    assert between.coverage == 1.0
    assert between.joules == pytest.approx(400)


def test_without_read_times_the_bounds_allow_for_the_scrape() -> None:
    """Without stored read times, the bounds include an error of half a second."""
    lines = [line for line in scraped(0) if "sample_timestamp" not in line]
    known, unknown = answer(page(scraped(0))).gpus[0], answer(page(lines)).gpus[0]
    assert unknown.joules_low is not None
    assert unknown.joules_high is not None
    assert known.joules_low is not None
    assert unknown.joules_low <= known.joules_low
    assert unknown.joules_high > 3000
