"""What a plot is made of: the grid, the gaps, the pictures' bytes, and what cannot be plotted."""

import importlib
import re
import struct
import subprocess
import sys
import tracemalloc
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem_integrator import Window, open_source
from llem_integrator.plot.gathered import Gathered
from llem_integrator.plot.grid import Envelope, Grid
from llem_integrator.plot.reading import Asked, grid_of, read
from llem_integrator.series.samples import Series
from llem_integrator.stores import Piece
from tests.llem_integrator.conftest import Done
from tests.llem_integrator.measured import BEGIN, file_of, results_of, two_gpus
from tests.llem_integrator.pages import scraped, trace
from tests.llem_integrator.pages import series as lines_of
from tests.servers import Prometheus, PrometheusRelease

SAMPLES = [(ms, 100.0 + ms % 700) for ms in range(0, 120_000, 100)]


def plotted(path: str, *spans: tuple[float, float], columns: int = 2000) -> dict[str, Envelope]:
    """The envelopes of windows, in seconds after the page's begin."""
    gathered = Gathered()
    for result in results_of(path, *spans):
        gathered.add(result)
    windows = [Window.between(BEGIN + start, BEGIN + end) for start, end in spans]
    asked = Asked(open_source(path), windows, ((),), None)
    return read(asked, gathered, grid_of(gathered, 10**6, columns))


def gaps_s(envelope: Envelope) -> list[tuple[float, float]]:
    return [(start / 1000 - BEGIN, end / 1000 - BEGIN) for start, end in envelope.gaps_ms()]


@given(
    st.lists(st.tuples(st.integers(0, 999), st.integers(0, 8000)), min_size=1, max_size=60),
    st.integers(1, 40),
    st.integers(1, 7),
)
def test_columns_hold_lowest_highest_and_mean(
    samples: list[tuple[int, int]], columns: int, parts: int
) -> None:
    """For any division into pieces, each column has exactly the samples of its time range."""
    samples.sort()
    times = np.array([ms for ms, _ in samples], np.int64)
    watts = np.array([value / 8 for _, value in samples])
    grid = Grid(100.0, 900.0, columns)
    envelope = Envelope(grid)
    for number in np.array_split(np.arange(len(times)), parts):
        envelope.add(times[number], watts[number])
    where = np.floor((times - 100) / 800 * columns)
    for column in range(columns):
        inside = watts[where == column]
        assert envelope.counts[column] == len(inside)
        if len(inside):
            assert (envelope.low[column], envelope.high[column]) == (inside.min(), inside.max())
            assert envelope.sums[column] == inside.sum()
    points = envelope.points()
    assert len(points.unix_ms) == np.count_nonzero(envelope.counts)


def test_a_gap_is_shaded_and_breaks_the_line(tmp_path: Path) -> None:
    """Eight seconds without samples are one gap of the right columns. There is no other gap."""
    kept = [sample for sample in SAMPLES if not 50_000 < sample[0] < 58_000]
    envelope = plotted(file_of(tmp_path, scraped(0), trace(0, kept)), (30, 90))["GPU-0"]
    width_s = (envelope.grid.end_ms - envelope.grid.start_ms) / envelope.grid.columns / 1000
    ((start, end),) = gaps_s(envelope)
    assert (start, end) == pytest.approx((50, 58), abs=width_s)
    points = envelope.points()
    (broken,) = np.flatnonzero(np.isnan(points.unix_ms))
    assert points.unix_ms[broken - 1] / 1000 - BEGIN == pytest.approx(50, abs=width_s)
    assert points.unix_ms[broken + 1] / 1000 - BEGIN == pytest.approx(58, abs=width_s)


def test_gaps_reach_to_the_edges_of_the_window(tmp_path: Path) -> None:
    """Before the first sample and after the last is a gap, within the window."""
    kept = [sample for sample in SAMPLES if 40_000 <= sample[0] <= 60_000]
    envelope = plotted(file_of(tmp_path, scraped(0), trace(0, kept)), (30, 90))["GPU-0"]
    assert np.array(gaps_s(envelope)) == pytest.approx(np.array([(30, 40), (60, 90)]), abs=0.05)


def test_only_windows_are_read(tmp_path: Path) -> None:
    """Between two distant windows, nothing is read or drawn, and there is no gap."""
    samples = [(ms, 100.0) for ms in range(0, 3_600_000, 500)]
    path = file_of(tmp_path, scraped(0, seconds=range(0, 3601, 15)), trace(0, samples))
    envelope = plotted(path, (60, 120), (3000, 3060), columns=4000)["GPU-0"]
    assert envelope.gaps_ms() == []
    seconds = envelope.points().unix_ms / 1000 - BEGIN
    assert np.count_nonzero(np.isnan(seconds)) == 1
    assert not np.any((seconds > 160) & (seconds < 2960))


def test_the_gauge_stands_in_for_the_trace(tmp_path: Path) -> None:
    """A GPU without a trace shows its gauge. A GPU without power is one gap."""
    lonely = {"gpu": "2", "uuid": "GPU-2", "instance": "n1:9955", "name": "H100"}
    info = lines_of("llem_gpu_info", lonely, [(ms, 1.0) for ms in range(0, 120_000, 5000)])
    found = plotted(file_of(tmp_path, scraped(0), trace(0, SAMPLES), scraped(1, watts=250.0), info), (30, 90))
    assert list(found) == ["GPU-0", "GPU-1", "GPU-2"]
    gauge = found["GPU-1"].points()
    assert set(gauge.high[~np.isnan(gauge.high)]) == {250.0}
    assert found["GPU-1"].gaps_ms() == []
    assert gaps_s(found["GPU-2"])[0] == pytest.approx((30, 90), abs=0.05)


def test_two_servers_hold_one_trace(tmp_path: Path) -> None:
    """Two halves of a trace from two Prometheus servers give one line without a gap."""
    halves = [trace(0, SAMPLES[n::2], replica=str(n)) for n in (0, 1)]
    envelope = plotted(file_of(tmp_path, scraped(0), *halves), (30, 90))["GPU-0"]
    assert envelope.gaps_ms() == []
    assert np.sum(envelope.counts) == pytest.approx(600, rel=0.1)


def test_a_store_gives_the_plot_of_the_file(
    tmp_path: Path, servers: ExitStack, prometheus_release: PrometheusRelease
) -> None:
    """A Prometheus with the same samples gives the same envelopes and gaps, to the bit."""
    path = two_gpus(tmp_path)
    text = Path(path).read_text()
    server = servers.enter_context(
        Prometheus.on_blocks(tmp_path / "server", text, release=prometheus_release)
    )
    wanted, found = (plotted(source, (30, 60), (70, 100)) for source in (path, server.url))
    assert list(wanted) == list(found) == ["GPU-0", "GPU-1"]
    for uuid, envelope in wanted.items():
        assert np.count_nonzero(envelope.counts) > 5
        for name in ("low", "high", "sums", "counts", "gap_ms", "ends"):
            assert np.array_equal(getattr(envelope, name), getattr(found[uuid], name)), name


class Hours:
    """A source of 10 Hz traces of 16 GPUs, however long, in pieces of a minute."""

    address = "hours"
    warnings: tuple[str, ...] = ()

    def pieces(self, metric: str, _: object, start_ms: int, end_ms: int) -> Iterator[Piece]:
        for first in range(start_ms // 60_000 * 60_000, end_ms, 60_000):
            times = np.arange(max(first, -(-start_ms // 100) * 100), min(first + 60_000, end_ms), 100)
            traced = range(16) if metric == "llem_gpu_power_trace_watts" else range(0)
            watts = np.asarray(100 + times % 700, np.float64)
            yield Piece(
                first, first + 60_000, tuple(Series({"uuid": f"GPU-{n}"}, times, watts) for n in traced)
            )

    def may_have(self, *_: object) -> bool:
        return True

    def timeless(self, _: object) -> Iterator[Series]:
        return iter(())


def test_memory_does_not_grow_with_the_window(tmp_path: Path) -> None:
    """An hour needs as much memory as a quarter of an hour. All samples are included."""
    path = file_of(tmp_path, *(scraped(gpu) for gpu in range(16)))
    (result,) = results_of(path, (30, 90))
    peaks = []
    for seconds in (900, 3600):
        gathered, window = Gathered(), Window.between(BEGIN, BEGIN + seconds)
        gathered.add(replace(result, start=float(BEGIN), end=float(BEGIN + seconds)))
        tracemalloc.start()
        envelopes = read(Asked(Hours(), [window], ((),), None), gathered, grid_of(gathered, 10**6, 1600))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert np.sum(envelopes["GPU-7"].counts) == pytest.approx(
            seconds * 10, abs=700
        )  # a margin on both sides
        assert envelopes["GPU-7"].gaps_ms() == []
    assert peaks[1] < 1.1 * peaks[0]


@pytest.fixture
def plot(llem_integrate: Callable[..., Done]) -> Callable[..., bytes]:
    """Draw a source's minute from 30 s on into a file, and return what it holds."""

    def drawn(source: str, target: Path, *more: str) -> bytes:
        window = ("--window", f"{BEGIN + 30},+60s", "--backend", "nvml")
        done = llem_integrate("--source", source, "--plot", str(target), *window, *more)
        assert (done.code, done.stderr) == (0, "")
        return target.read_bytes()

    return drawn


def words(svg: bytes) -> str:
    """The text of an SVG."""
    return " ".join(text.strip() for text in ET.fromstring(svg).itertext())  # noqa: S314 - our own file


def test_svg_says_in_text_what_it_shows(tmp_path: Path, plot: Callable[..., bytes]) -> None:
    """The title and a caption per GPU are text with joules, backend and coverage.

    The file is reproducible.
    """
    source = two_gpus(tmp_path)
    first, second = (plot(source, tmp_path / f"{name}.svg") for name in ("a", "b"))
    assert first == second
    text = words(first)
    assert "2026-11-24T08:05:30Z to 2026-11-24T08:06:30Z: 21000.0 J in all" in text
    assert re.search(
        r"GPU 1 H100 on n1:9955: 15000\.0 J \(\d+\.\d to \d+\.\d\), nvml counter, coverage 1\.0", text
    )
    assert "gap: no power samples" in text


def test_png_of_many_gpus_is_not_endless(tmp_path: Path, plot: Callable[..., bytes]) -> None:
    """Of 64 GPUs, the nine with the most energy have a row each. The title says so."""
    parts = [trace(gpu, [(ms, 100.0 + gpu) for ms in range(0, 120_000, 5000)]) for gpu in range(64)]
    source, bridged = file_of(tmp_path, *parts), ("--max-gap", "15s")
    png = plot(source, tmp_path / "a.png", *bridged)
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    assert (width, height < 2000) == (1560, True)
    text = plot(source, tmp_path / "a.svg", *bridged).decode()
    assert text.count("on n1:9955") == 9
    assert "GPU 63" in text
    assert "GPU 54:" not in text
    assert "(without 55 GPUs that used less)" in text


def test_names_are_no_markup(tmp_path: Path, llem_integrate: Callable[..., Done]) -> None:
    """Formulas, tags and escapes in names are text. Missing glyphs give no warning."""
    jobs = tmp_path / "jobs.csv"
    jobs.write_text(f"name,start,end\n$x_1$ </script><b>\x1b[31m\u8bad,{BEGIN + 30},+30s\n", "utf-8")
    plots = ["--plot", str(tmp_path / "a.svg"), "--plot", str(tmp_path / "a.html")]
    done = llem_integrate("--source", two_gpus(tmp_path), "--windows", str(jobs), *plots)
    assert (done.code, done.stderr) == (0, "")
    shown = "$x_1$ </script><b>\ufffd[31m\u8bad: 2026"
    assert shown in done.stdout
    assert shown in words((tmp_path / "a.svg").read_bytes())
    page = (tmp_path / "a.html").read_text()
    assert page.count("</script>") == 2
    assert "<b>" not in page


def test_without_windows_that_have_gpus_there_is_still_a_plot(
    tmp_path: Path, llem_integrate: Callable[..., Done]
) -> None:
    """Without GPUs, the plot is empty, and the exit code is that of the window."""
    files = [tmp_path / f"a.{suffix}" for suffix in ("png", "svg", "html")]
    plots = [part for file in files for part in ("--plot", str(file))]
    done = llem_integrate("--source", two_gpus(tmp_path), "--window", f"{BEGIN - 900},+60s", *plots)
    assert (done.code, done.stderr) == (3, "")
    assert all(file.stat().st_size > 1000 for file in files)


def test_matplotlib_is_loaded_only_for_a_picture() -> None:
    """Reading data and writing an HTML page do not import matplotlib."""
    code = "import sys, llem_integrator.plot.page, llem_integrator.presentation as _; "
    code += "print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert importlib.util.find_spec("matplotlib")
