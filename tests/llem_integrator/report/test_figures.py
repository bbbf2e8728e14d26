"""Emissions, price, idle and active energy, and calibration."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llem_integrator import ConfigError, Correction, Request, WindowResult
from llem_integrator.report.calibration import parse
from llem_integrator.report.figures import with_figures
from tests.llem_integrator.conftest import Done
from tests.llem_integrator.measured import BEGIN, results_of, two_gpus


@pytest.fixture
def result(tmp_path: Path) -> WindowResult:
    """40 s of a GPU of 100 W and one of 250 W."""
    return results_of(two_gpus(tmp_path), (40, 80))[0]


def test_price_and_emissions_are_of_the_joules_and_the_pue(result: WindowResult) -> None:
    """Both are kWh x PUE x rate. The joules do not change."""
    shown = with_figures(result, Request(grams_per_kwh=360.0, pue=1.5, price_per_kwh=0.36))
    assert [gpu.joules for gpu in shown.gpus] == [gpu.joules for gpu in result.gpus]
    assert [gpu.emissions_g for gpu in shown.gpus] == pytest.approx([0.6, 1.5])
    assert [gpu.price for gpu in shown.gpus] == pytest.approx([0.0006, 0.0015])
    assert (shown.total_j, shown.per_gpu_j) == (result.total_j, result.per_gpu_j)


def test_codecarbons_rate_gets_the_pue_and_the_calibration(result: WindowResult) -> None:
    """Grams at the node's rate are multiplied by PUE and by the calibration of the joules."""
    gpu = result.gpus[0]._replace(emissions_g=2.0)
    measured = replace(result, gpus=(gpu,))
    assert with_figures(measured, Request(emissions=True, pue=1.5)).gpus[0].emissions_g == 3.0
    corrected = Request(emissions=True, pue=1.5, calibration={"GPU-0": Correction(2.0, 0.0)})
    doubled = with_figures(measured, corrected)
    assert doubled.gpus[0].emissions_g == pytest.approx(6.0)
    assert with_figures(measured, Request(price_per_kwh=1.0)).gpus[0].emissions_g == 2.0


def test_idle_is_at_most_the_joules(result: WindowResult) -> None:
    """Idle watts over the covered time are idle, the rest is active.

    Below idle power, all joules are idle.
    """
    shown = with_figures(result, Request(idle_watts=150.0))
    idle = [gpu.idle_j for gpu in shown.gpus]
    active = [gpu.active_j for gpu in shown.gpus]
    assert idle == pytest.approx([4000, 6000])
    assert active == pytest.approx([0, 4000])
    assert active[0] == 0.0


def test_what_has_no_joules_has_no_figures(tmp_path: Path) -> None:
    """Without joules there is no price, and the calibration adds none."""
    request = Request(
        grams_per_kwh=400.0,
        pue=1.2,
        price_per_kwh=0.3,
        calibration={"GPU-0": Correction(1.0, 5.0)},
        idle_watts=50.0,
    )
    shown = with_figures(results_of(two_gpus(tmp_path), (-900, -800))[0], request)
    assert (shown.gpus, shown.total_j) == ((), None)
    result = results_of(two_gpus(tmp_path), (40, 80))[0]
    empty = result.gpus[0]._replace(joules=None, joules_low=None, joules_high=None, mean_watts=None)
    gpu = with_figures(replace(result, gpus=(empty,), total_j=None), request).gpus[0]
    assert (gpu.joules, gpu.price, gpu.emissions_g, gpu.idle_j, gpu.active_j) == (None,) * 5
    assert gpu.calibrated is True


def test_calibration_is_of_watts(result: WindowResult) -> None:
    """true = gain x reading + offset. For joules, the offset is multiplied by the covered time."""
    shown = with_figures(result, Request(calibration={"GPU-1": Correction(1.1, -5.0)}))
    read, true = result.gpus[1], shown.gpus[1]
    assert read.joules is not None
    assert read.joules_low is not None
    assert read.joules_high is not None
    assert true.joules == pytest.approx(1.1 * read.joules - 5 * 40)
    assert true.joules_low == pytest.approx(1.1 * read.joules_low - 5 * 40)
    assert true.joules_high == pytest.approx(1.1 * read.joules_high - 5 * 40)
    assert (true.mean_watts, true.peak_watts) == pytest.approx((270.0, 270.0))
    assert [gpu.calibrated for gpu in shown.gpus] == [False, True]
    assert shown.gpus[0] == result.gpus[0]._replace(calibrated=False)
    assert shown.total_j == pytest.approx(4000 + 10_800)
    assert shown.per_gpu_j["GPU-1"] == true.joules
    assert true.joules_by_backend == read.joules_by_backend


def test_calibrated_bounds_hold_the_gaps(tmp_path: Path) -> None:
    """The upper bound includes the offset over gaps, because it includes the power limit there."""
    result = results_of(two_gpus(tmp_path), (-30, 30))[0]
    read = result.gpus[1]
    assert read.gap_s > 20
    true = with_figures(result, Request(calibration={"GPU-1": Correction(1.0, 10.0)})).gpus[1]
    assert true.joules is not None
    assert true.joules_high is not None
    assert true.joules - (read.joules or 0) == pytest.approx(10 * read.covered_s)
    assert true.joules_high - (read.joules_high or 0) == pytest.approx(10 * 60)


def test_a_total_without_a_split_stays(result: WindowResult) -> None:
    """The part of a total that belongs to no GPU is kept, without calibration."""
    unsplit = result.gpus[0]._replace(joules=None)
    measured = replace(result, gpus=(unsplit, result.gpus[1]), total_j=25_000.0)
    doubled = {"GPU-0": Correction(2.0, 0.0), "GPU-1": Correction(2.0, 0.0)}
    shown = with_figures(measured, Request(calibration=doubled))
    assert shown.total_j == pytest.approx(35_000)


def test_a_node_without_gpus_has_no_figures_and_says_so(result: WindowResult) -> None:
    """CodeCarbon's joules of a whole node belong to no GPU."""
    node = replace(result, gpus=(), per_gpu_j={}, scope="node", total_j=900.0)
    shown = with_figures(node, Request(price_per_kwh=0.3))
    assert shown.total_j == 900
    assert "per GPU, and the window has no GPU" in shown.warnings[-1].message
    assert with_figures(node, Request()) == node


def test_by_the_command_line(tmp_path: Path, llem_integrate: Callable[..., Done]) -> None:
    """The options give the figures. --carbon-intensity implies --emissions."""
    cards = tmp_path / "cards.csv"
    cards.write_text("\ufeffuuid, gain, offset_watts\r\nGPU-1, 2, 0\r\n")
    source = two_gpus(tmp_path)
    window = f"{BEGIN + 40},+40s"
    options = ["--carbon-intensity", "360", "--price", "-0.36", "--pue", "1.5", "--idle-watts", "50"]
    calibrated = [*options, "--calibration", str(cards)]
    done = llem_integrate("--source", source, "--window", window, "--format", "json", *calibrated)
    assert (done.code, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    gpus = document["windows"][0]["gpus"]
    assert [gpu["emissions_g"] for gpu in gpus] == pytest.approx([0.6, 3.0])
    assert [gpu["price"] for gpu in gpus] == pytest.approx([-0.0006, -0.003])
    assert [gpu["active_j"] for gpu in gpus] == pytest.approx([2000, 18_000])
    assert [gpu["calibrated"] for gpu in gpus] == [False, True]
    assert "operational, location-based" in document["notes"]["emissions_g"]
    table = llem_integrate("--source", source, "--window", window, *options).stdout
    assert "gCO2e: operational, location-based, only of the GPU; 360 g/kWh, PUE 1.5" in table
    assert "gCO2e 2.100" in table


BAD_OPTIONS = [
    (["--pue", "0.9"], "--pue"),
    (["--pue", "nan"], "--pue"),
    (["--pue", "x"], "--pue"),
    (["--price", "inf"], "--price"),
    (["--price", "1e300"], "--price"),
    (["--carbon-intensity", "-1"], "--carbon-intensity"),
    (["--idle-watts", "-5"], "--idle-watts"),
    (["--idle-watts", "nan"], "--idle-watts"),
    (["--calibration", "missing.csv"], "cannot read missing.csv"),
    (["--calibration", "/"], "cannot read /"),
    (["--format", "xlsx"], "xlsx"),
    (["--plot", "out.pdf"], ".png, .svg, .html"),
    (["--plot", ""], ".png, .svg, .html"),
    (["--output", ""], "--output"),
    (["--output", "a.svg", "--plot", "a.svg"], "a file of their own"),
    (["--plot", "a.svg", "--plot", "a.svg"], "a file of their own"),
]


def test_bad_values_are_usage_errors_of_one_line(
    llem_integrate: Callable[..., Done], subtests: pytest.Subtests
) -> None:
    """A wrong option is an error before any data is read."""
    for args, message in BAD_OPTIONS:
        with subtests.test(args=args, message=message):
            done = llem_integrate("--source", "missing.om", "--window", "now-1m,now", *args)
            assert (done.code, done.stdout) == (2, "")
            (line,) = done.stderr.splitlines()
            assert line.startswith("error: ")
            assert message in line


BAD_CALIBRATIONS = [
    ("", "first line must name"),
    ("uuid,gain\nGPU-0,1\n", "first line must name"),
    ("uuid,gain,offset_watts\n", "contains no card"),
    ("uuid,gain,offset_watts\nGPU-0,1\n", "line 2 has 2 fields"),
    ("uuid,gain,offset_watts\nGPU-0,x,0\n", "line 2: gain is not a number: 'x'"),
    ("uuid,gain,offset_watts\nGPU-0,nan,0\n", "line 2: gain nan is not between"),
    ("uuid,gain,offset_watts\nGPU-0,0,0\n", "line 2: gain 0 is not between"),
    ("uuid,gain,offset_watts\nGPU-0,1,inf\n", "line 2: offset_watts inf is not between"),
    ("uuid,gain,offset_watts\nGPU-0,1,nan\n", "line 2: offset_watts nan is not between"),
    ("uuid,gain,offset_watts\n,1,0\n", "line 2: no uuid"),
    ("uuid,gain,offset_watts\nA,1,0\nA,1,0\n", "line 3: this uuid comes twice"),
    ('uuid,gain,offset_watts\n"A,1,0\n', "line 2"),
]


def test_a_bad_calibration_names_its_line(subtests: pytest.Subtests) -> None:
    """The error has the line number in the file."""
    for text, message in BAD_CALIBRATIONS:
        with subtests.test(text=text, message=message):
            with pytest.raises(ConfigError) as caught:
                parse(text.splitlines(keepends=True), "cards.csv")
            assert message in str(caught.value)
            assert str(caught.value).startswith("cards.csv")


def test_columns_in_any_order() -> None:
    """The header determines the order of the columns."""
    assert parse(["gain,uuid,offset_watts\n", "2,A,1.5\n"], "x") == {"A": Correction(2.0, 1.5)}
