"""llem_integrator as a library: its names, how cheap it is to import, and a notebook's view of results."""

import ast
import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import llem_integrator
from llem_integrator import (
    Backend,
    ConfigError,
    Request,
    Results,
    SourceError,
    Window,
    open_source,
    parse_selector,
    run,
    stream,
)
from tests.llem_integrator.measured import BEGIN, results_of, two_gpus

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_all_is_sorted_and_there() -> None:
    """Every public name exists, once and in order, and is the object of its defining module."""
    names = llem_integrator.__all__
    assert names == sorted(set(names))
    for name in names:
        assert getattr(llem_integrator, name) is not None
    assert set(names) < set(dir(llem_integrator))
    assert llem_integrator.Window is Window
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = llem_integrator.nothing


def test_type_checkers_see_what_there_is() -> None:
    """The imports for type checkers match __all__."""
    tree = ast.parse(Path(llem_integrator.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(llem_integrator.__all__)


def test_the_import_loads_nothing() -> None:
    """`import llem_integrator` imports no library, and --help imports none of the large ones."""
    heavy = "{'numpy', 'urllib3', 'rich', 'pyarrow', 'pandas', 'matplotlib', 'click'} & set(sys.modules)"
    code = f"import sys, llem_integrator; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    code = f"import sys, llem_integrator.cli; print(sorted({heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['click']"


def test_windows_of_instants() -> None:
    """Unix seconds and datetimes with a zone give the same window. Other values are an error."""
    start, end = datetime(2026, 11, 24, 8, 5, tzinfo=UTC), datetime(2026, 11, 24, 8, 6, 0, 1, UTC)
    window = Window.between(start, end, "a")
    assert window == Window.between(start.timestamp(), end.timestamp(), "a")
    assert (window.duration_s, window.name) == (60.000001, "a")
    for bad in (datetime(2026, 1, 1), float("nan"), float("inf"), 1e18, -1.0):
        with pytest.raises(ConfigError):
            Window.between(bad, end)


def test_results_become_frames(tmp_path: Path) -> None:
    """A data frame has one row per window and GPU, with types. Unknown values are null."""
    windows = [Window.between(BEGIN + 40, BEGIN + 80), Window.between(BEGIN - 900, BEGIN - 800)]
    results = run(open_source(two_gpus(tmp_path)), windows, Request(price_per_kwh=0.36))
    frame = results.to_pandas()
    assert frame["joules"].tolist()[:2] == pytest.approx([4000, 10_000])
    assert frame["price"].sum() == pytest.approx(0.0014)
    assert frame["joules"].isna().tolist() == [False, False, True]
    assert str(frame["start"].dtype) == "datetime64[us, UTC]"
    assert frame.groupby("uuid")["joules"].sum()["GPU-1"] == pytest.approx(10_000)
    table = results.to_arrow()
    assert table.num_rows == 3
    assert table.column_names[-1] == "price"
    assert (len(results), results[0], list(results[1:])) == (2, results.windows[0], [results.windows[1]])
    assert Results((), results.about).to_pandas().empty


def test_results_show_themselves(tmp_path: Path) -> None:
    """A notebook shows escaped HTML tables, a terminal shows the usual table."""
    path = two_gpus(tmp_path)
    windows = [Window.between(BEGIN + 40, BEGIN + 80), Window.between(BEGIN - 900, BEGIN - 800)]
    results = run(open_source(path), windows, Request(idle_watts=50.0))
    html = results._repr_html_()
    assert html.count("<table>") == 2
    assert "<th>idle J</th>" in html
    assert "<td>4000.0</td>" in html
    assert "not valid: no_data" in html
    assert "total 14000.0 J" in str(results)
    assert '"idle_j": 2000.0' in results.to_json()
    assert results[0]._repr_html_().count("<tr>") == 3
    named = results_of(path, (40, 80))[0]
    odd = llem_integrator.WindowResult(**{**{n: getattr(named, n) for n in named.__slots__}, "name": "<b>&"})
    assert "<b>" not in odd._repr_html_()


def test_a_request_accepts_what_users_write() -> None:
    """Matchers may be text, GPUs may be numbers or a comma-separated list, and a backend may be a name."""
    request = Request("zeus", 'gpu="0"', (0, "GPU-2bae"))
    assert request.backend is Backend.ZEUS
    assert request.selectors == (parse_selector('gpu="0"'),)
    assert request.gpus == ("0", "GPU-2bae")
    assert Request("auto", ['a="1"', parse_selector('b="2"')], "0, 1") == Request(
        None, [parse_selector('a="1"'), 'b="2"'], (0, 1)
    )
    assert (Request().selectors, Request().gpus, Request(gpus=3).gpus) == (((),), (), ("3",))
    assert replace(request, min_coverage=0.5) == Request("zeus", 'gpu="0"', (0, "GPU-2bae"), None, 0.5)


INVALID: list[tuple[dict[str, Any], str]] = [
    ({"min_coverage": 99}, "min_coverage must be a number from 0 to 1, not 99"),
    ({"min_coverage": float("nan")}, "min_coverage"),
    ({"min_coverage": "high"}, "min_coverage must be a number from 0 to 1, not 'high'"),
    ({"max_gap_ms": 0}, "max_gap_ms"),
    ({"pue": 0.9}, "pue must be a number from 1 to 10"),
    ({"grams_per_kwh": -1}, "grams_per_kwh"),
    ({"price_per_kwh": float("inf")}, "price_per_kwh"),
    ({"idle_watts": -5}, "idle_watts"),
    ({"backend": "dcgm2"}, "no such backend: 'dcgm2' (one of auto, zeus"),
    ({"selectors": "gpu=0"}, "not a label matcher"),
    ({"gpus": ","}, "contains no GPU"),
]


def test_a_request_rejects_invalid_values(subtests: pytest.Subtests) -> None:
    """Each value that cannot work is a ConfigError, which names the value."""
    for values, message in INVALID:
        with subtests.test(values=values):
            with pytest.raises(ConfigError) as caught:
                Request(**values)
            assert message in str(caught.value)


def test_requested_figures_are_in_every_result(tmp_path: Path) -> None:
    """run() and stream() add the figures of the request. If emissions are unknown, a warning says so."""
    source, window = open_source(two_gpus(tmp_path)), Window.between(BEGIN + 40, BEGIN + 80)
    (priced,) = stream(source, [window], Request(price_per_kwh=3600.0))
    assert [gpu.price for gpu in priced.gpus] == pytest.approx([4.0, 10.0])
    (given,) = run(source, [window], Request(grams_per_kwh=3600.0))
    assert [gpu.emissions_g for gpu in given.gpus] == pytest.approx([4.0, 10.0])
    assert given.warnings == ()
    (unknown,) = run(source, [window], Request(emissions=True))
    assert [gpu.emissions_g for gpu in unknown.gpus] == [None, None]
    assert [warning.code for warning in unknown.warnings] == ["emissions_unavailable"]


def test_errors_are_of_one_tree() -> None:
    """Errors of a store or a value have one line and a common base class."""
    with pytest.raises(SourceError, match=r"missing\.om"):
        open_source("missing.om")
    assert issubclass(SourceError, llem_integrator.LLEMError)


def test_the_readmes_example_runs(tmp_path: Path) -> None:
    """The example in the README gives joules, with a file instead of its server."""
    (example,) = re.findall(r"```python\n(from llem_integrator import .*?)```", README, re.DOTALL)
    source = f'open_source("{two_gpus(tmp_path)}")'
    example, changed = re.subn(r'open_source\("[^"]+"\)', source, example)
    assert changed == 1
    example = example.replace("1795507546", str(BEGIN + 40)).replace("1795507606", str(BEGIN + 80))
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "GPU-1" in done.stdout
