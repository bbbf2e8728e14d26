"""Each format: what it holds, that it comes as it is measured, and that it is the same bytes again."""

import csv
import io
import json
import math
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from llem_integrator import Request, WindowResult
from llem_integrator.report import BINARY, FORMATS, About, writer
from llem_integrator.report.figures import about, with_figures
from tests.llem_integrator.measured import BEGIN, file_of, many, results_of, two_gpus
from tests.llem_integrator.pages import scraped
from tests.servers import program

EVERYTHING = Request(grams_per_kwh=400.0, price_per_kwh=0.3, idle_watts=60.0, calibration={})


@pytest.fixture
def results(tmp_path: Path) -> list[WindowResult]:
    """A window that is whole, one of which half is covered, and one without any GPU."""
    return results_of(two_gpus(tmp_path), (40, 80), (-30, 30), (-900, -800))


def written(
    form: str, results: "list[WindowResult] | Iterator[WindowResult]", request: Request | None = None
) -> Any:
    request = request or Request()
    out: Any = io.BytesIO() if form in BINARY else io.StringIO()
    writer(form)((with_figures(one, request) for one in results), out, about("here", request))
    return out.getvalue()


def csv_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def gauges(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Samples by metric, as an OpenMetrics parser reads them."""
    return {
        family.name: [(dict(sample.labels), sample.value) for sample in family.samples]
        for family in text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    }


def test_json_adds_fields_only_where_they_are_asked_for(results: list[WindowResult]) -> None:
    """Figures add fields to each GPU and notes to the document. Without figures, there are none."""
    plain, full = (json.loads(written("json", results, figures)) for figures in (None, EVERYTHING))
    assert list(plain) == ["schema", "source", "windows"]
    assert list(full) == ["schema", "source", "notes", "windows"]
    assert set(full["notes"]) == {"emissions_g", "price", "idle_j", "calibrated"}
    gpu, more = plain["windows"][0]["gpus"][1], full["windows"][0]["gpus"][1]
    assert list(more)[len(gpu) :] == ["price", "idle_j", "active_j", "calibrated"]
    assert {name: more[name] for name in gpu if name != "emissions_g"} == {
        name: value for name, value in gpu.items() if name != "emissions_g"
    }
    assert (gpu["emissions_g"], more["calibrated"]) == (None, False)
    assert plain["windows"][2]["gpus"] == []


def test_numbers_are_the_same_in_every_format(results: list[WindowResult]) -> None:
    """JSON, CSV, Parquet and OpenMetrics contain the same doubles, not rounded."""
    document = json.loads(written("json", results, EVERYTHING))
    gpus = [gpu for window in document["windows"] for gpu in window["gpus"]]
    rows = [row for row in csv_rows(written("csv", results, EVERYTHING)) if row["uuid"]]
    table = pyarrow.parquet.read_table(io.BytesIO(written("parquet", results, EVERYTHING)))
    typed = [row for row in table.to_pylist() if row["uuid"]]
    metrics = gauges(written("openmetrics", results, EVERYTHING))
    assert len(gpus) == 4
    for name in ("joules", "joules_low", "coverage", "gap_s", "emissions_g", "price", "idle_j", "active_j"):
        wanted = [gpu[name] for gpu in gpus]
        assert [float(row[name]) for row in rows] == wanted
        assert [row[name] for row in typed] == wanted
    assert [value for _, value in metrics["llem_window_energy_joules"]] == [gpu["joules"] for gpu in gpus]
    assert [value for _, value in metrics["llem_window_price"]] == [gpu["price"] for gpu in gpus]
    assert [float(row["joules_nvml"]) for row in rows] == [gpu["joules_by_backend"]["nvml"] for gpu in gpus]


def test_a_window_without_gpus_has_its_reasons_everywhere(results: list[WindowResult]) -> None:
    """Without GPUs, a row or sample has the window and the reason."""
    last = csv_rows(written("csv", results))[-1]
    assert (last["valid"], last["reasons"], last["uuid"], last["joules"]) == ("false", "no_data", "", "")
    assert float(last["start"]) == BEGIN - 900
    typed = pyarrow.parquet.read_table(io.BytesIO(written("parquet", results))).to_pylist()[-1]
    assert (typed["valid"], typed["reasons"], typed["uuid"]) == (False, ["no_data"], None)
    assert typed["start"].timestamp() == BEGIN - 900
    metrics = gauges(written("openmetrics", results))
    assert [labels["reason"] for labels, _ in metrics["llem_window_invalid_info"]] == ["coverage", "no_data"]
    assert [value for _, value in metrics["llem_window_valid"]] == [1, 0, 0]
    assert "not valid: no_data" in written("table", results)


def test_the_table_says_why_a_backend_of_higher_priority_is_not_used(tmp_path: Path) -> None:
    """A GPU without an energy counter makes its whole node use nvml. With --gpus 0, GPU 0 uses zeus."""
    path = file_of(tmp_path, scraped(0), scraped(1, zeus=False))
    text = written("table", results_of(path, (40, 80)))
    note = "note: zeus: no samples for GPU 1 (GPU-1); one backend serves all GPUs of a node"
    assert note in text.splitlines()
    selected = written("table", results_of(path, (40, 80), request=Request(gpus="0")))
    assert "backend zeus" in selected
    assert "note:" not in selected


def test_parquet_has_types(results: list[WindowResult]) -> None:
    """Numbers, flags, lists and times have their types. Columns have their notes."""
    table = pyarrow.parquet.read_table(io.BytesIO(written("parquet", results, EVERYTHING)))
    types = {field.name: str(field.type) for field in table.schema}
    assert (types["start"], types["joules"], types["valid"], types["sample_count"], types["warnings"]) == (
        "timestamp[us, tz=UTC]",
        "double",
        "bool",
        "int64",
        "list<element: string>",
    )
    assert table.schema.metadata[b"llem_source"] == b"here"
    assert b"location-based" in table.schema.field("emissions_g").metadata[b"note"]


def test_openmetrics_passes_promtool(results: list[WindowResult]) -> None:
    """promtool accepts the page. Lines have no timestamps, and every metric has a help."""
    text = written("openmetrics", results, EVERYTHING)
    command = [program("promtool", "prometheus"), "check", "metrics"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert text.endswith("# EOF\n")
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(samples) > 40
    assert all(len(line.partition("} ")[2].split()) == 1 for line in samples)
    assert "operational, location-based" in text


def test_openmetrics_names_windows_once(results: list[WindowResult]) -> None:
    """Repeated names are numbered. Names may contain any character."""
    names = ["a", "a", "a (2)", 'q"\\\n', None, None]
    same = [replace(results[0], name=name) for name in names]
    metrics = gauges(written("openmetrics", same))
    shown = [labels["window"] for labels, _ in metrics["llem_window_valid"]]
    assert shown[:4] == ["a", "a (2)", "a (2) (2)", 'q"\\\n']
    assert len(set(shown)) == len(names)


def test_a_table_in_a_file_has_a_line_for_each_gpu(tmp_path: Path) -> None:
    """A wide table is not wrapped. With several nodes, each line has its node."""
    nodes = [f"{'node' * 20}{number}.example.org:9955" for number in range(2)]
    path = file_of(tmp_path, *(scraped(0, uuid=f"GPU-{node}", instance=node) for node in nodes))
    lines = written("table", results_of(path, (10, 110)), EVERYTHING).splitlines()
    heading = next(line for line in lines if line.startswith("GPU  UUID"))
    for node in nodes:
        (row,) = (line for line in lines if line.startswith("0 ") and node in line)
        assert row.split()[:5] == ["0", f"GPU-{node}"[: len("GPU-") + 81], "H100", node, "10000.0"]
        assert row[: heading.index("joules") + len("joules")].endswith(" 10000.0")
        assert f"GPU 0 on {node}: zeus 10000.0 J, nvml 10000.0 J" in lines


def test_csv_columns_are_stable(results: list[WindowResult]) -> None:
    """The columns have the order of the README. Figures add columns at the end."""
    plain, full = (written("csv", results, figures).partition("\n")[0] for figures in (None, EVERYTHING))
    assert full == plain + ",price,idle_j,active_j,calibrated"
    assert plain.startswith(
        "window,start,end,duration_sec,valid,reasons,window_backend,scope,total_j,uuid,gpu,"
    )
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    assert plain.replace(",", ", ") in " ".join(readme.split())


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_each_window_is_printed_before_the_next_is_measured(results: list[WindowResult], form: str) -> None:
    """A result is printed before the next window is requested."""
    out, lengths = io.StringIO(), []

    def coming() -> Iterator[WindowResult]:
        for _ in range(4):
            lengths.append(len(out.getvalue()))
            yield results[0]

    writer(form)(coming(), out, About("here"))
    assert all(after > before for before, after in pairwise(lengths))


@pytest.mark.parametrize(
    ("form", "few", "many_more"),
    [
        ("json", 400, 1000),
        ("csv", 400, 1000),
        pytest.param("parquet", 1200, 3000, marks=pytest.mark.full),
        pytest.param("openmetrics", 1200, 3000, marks=pytest.mark.full),
    ],
)
def test_windows_are_not_held(
    results: list[WindowResult], form: str, few: int, many_more: int, tmp_path: Path
) -> None:
    """The memory does not depend on the number of windows."""
    write, peaks = writer(form), []
    for windows in (few, many_more):
        with (tmp_path / "out").open("wb" if form in BINARY else "w") as out:
            tracemalloc.start()
            write(many(results[0], windows, 8), out, About("here"))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0] + 1e6


def test_json_never_holds_what_is_no_number(results: list[WindowResult]) -> None:
    """NaN raises an error and is not written."""
    gpu = results[0].gpus[0]._replace(joules=math.nan)
    with pytest.raises(ValueError, match="JSON"):
        written("json", [replace(results[0], gpus=(gpu,))])


EVERY_FORMAT = """
import sys
from llem_integrator import cli
from llem_integrator.report import FORMATS

folder, *args = sys.argv[1:]
for form in FORMATS:
    sys.argv = ["llem-integrate", *args, "--format", form, "--output", f"{folder}/{form}"]
    try:
        cli.main()
    except SystemExit as ended:
        assert ended.code == 4, ended
"""
"""The command once for each format, in one process."""


def test_twice_the_same_bytes(tmp_path: Path) -> None:
    """A process with another hash seed writes the same bytes, including figures."""
    cards = tmp_path / "cards.csv"
    cards.write_text("uuid,gain,offset_watts\nGPU-0,1.05,-2\n")
    windows = ["--window", f"{BEGIN + 40},+40s", "--window", f"{BEGIN - 30},+60s"]
    args = ["--source", two_gpus(tmp_path), *windows]
    args += ["--price", "0.3", "--pue", "1.2", "--carbon-intensity", "381", "--idle-watts", "60"]
    args += ["--calibration", str(cards)]
    outputs: dict[str, set[bytes]] = {form: set() for form in FORMATS}
    for seed in ("1", "2", "3"):
        folder = tmp_path / seed
        folder.mkdir()
        command = [sys.executable, "-c", EVERY_FORMAT, str(folder), *args]
        done = subprocess.run(
            command, capture_output=True, timeout=120, check=False, env={**os.environ, "PYTHONHASHSEED": seed}
        )
        assert (done.returncode, done.stderr) == (0, b"")
        for form, written_before in outputs.items():
            written_before.add((folder / form).read_bytes())
    assert {form: len(found) for form, found in outputs.items()} == dict.fromkeys(FORMATS, 1)
    assert all(len(one) > 300 for found in outputs.values() for one in found)
