"""The text of the traces on /history."""

from array import array
from math import nan

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from llem_exporter.history.page import trace_chunks
from llem_measure.sampling.devices import DeviceInfo
from llem_measure.sampling.ring import Samples

MS = 1_795_507_546_000
GPUS = [
    (
        DeviceInfo(0, "GPU-a", ""),
        Samples(array("q", [MS, MS + 7]), array("d", [100.125, nan]), array("d", [20_000_000_000.125, 5.0])),
    ),
    (DeviceInfo(1, 'GPU-"\\\n', ""), Samples(array("q", [MS + 1999]), array("d", [80.0]), array("d", [nan]))),
]


def test_text_has_milliseconds() -> None:
    """In text format 0.0.4, counter families have their full name and times are milliseconds.

    NaN has no line.
    """
    assert "".join(trace_chunks(GPUS, openmetrics=False)) == (
        "# HELP llem_gpu_power_trace_watts Every power sample, with its own timestamp.\n"
        "# TYPE llem_gpu_power_trace_watts gauge\n"
        'llem_gpu_power_trace_watts{gpu="0",uuid="GPU-a"} 100.125 1795507546000\n'
        'llem_gpu_power_trace_watts{gpu="1",uuid="GPU-\\"\\\\\\n"} 80.0 1795507547999\n'
        "# HELP llem_gpu_zeus_energy_trace_joules_total"
        " Every reading of the hardware energy counter, with its own timestamp.\n"
        "# TYPE llem_gpu_zeus_energy_trace_joules_total counter\n"
        'llem_gpu_zeus_energy_trace_joules_total{gpu="0",uuid="GPU-a"} 20000000000.125 1795507546000\n'
        'llem_gpu_zeus_energy_trace_joules_total{gpu="0",uuid="GPU-a"} 5.0 1795507546007\n'
    )


def test_openmetrics_has_seconds_to_the_millisecond() -> None:
    """The OpenMetrics parser reads the page. Counter families have no _total, and labels are unescaped."""
    text = "".join(trace_chunks(GPUS, openmetrics=True))
    watts, joules = text_string_to_metric_families(text + "# EOF\n")  # type: ignore[no-untyped-call]
    assert (watts.name, watts.type, watts.unit) == ("llem_gpu_power_trace_watts", "gauge", "watts")
    assert (joules.name, joules.type, joules.unit) == (
        "llem_gpu_zeus_energy_trace_joules",
        "counter",
        "joules",
    )
    assert [sample.labels["uuid"] for sample in watts.samples] == ["GPU-a", 'GPU-"\\\n']
    assert " 1795507546.007\n" in text
    assert " 1795507547.999\n" in text


def test_every_millisecond_survives_openmetrics() -> None:
    """Seconds with three digits give back any millisecond, from now to 2100."""
    for first_ms in (MS, 4_102_444_800_000):
        times = array("q", range(first_ms, first_ms + 1000))
        zeros = array("d", bytes(8 * 1000))
        lines = "".join(
            trace_chunks([(GPUS[0][0], Samples(times, zeros, zeros))], openmetrics=True)
        ).splitlines()
        stamps = [line.split()[-1] for line in lines if line.startswith("llem_gpu_power")]
        assert [int(stamp.replace(".", "")) for stamp in stamps] == list(times)


def test_slices_are_short_and_lose_nothing() -> None:
    """10,000 samples are sent in slices of at most 300 lines."""
    count = 10_000
    times, values = array("q", range(MS, MS + count)), array("d", range(count))
    parts = list(trace_chunks([(GPUS[0][0], Samples(times, values, values))], openmetrics=False))
    assert max(part.count("\n") for part in parts) <= 302
    assert sum(part.count("} ") for part in parts) == 2 * count


def test_a_gpu_without_samples_makes_no_family() -> None:
    """An empty history is an empty text."""
    empty = Samples(array("q"), array("d"), array("d"))
    assert list(trace_chunks([(GPUS[0][0], empty)], openmetrics=True)) == []
