"""The report of llem-measure: what it shows where figures are unknown."""

import json
from dataclasses import replace
from math import inf

from llem_core.backend import Backend
from llem_core.measurement import EnergyMeasurement, MeasurementWarning, WarningCode
from llem_measure.block import Measured
from llem_measure.nvml.discovery import Gpu
from llem_measure.report import Amount, CommandRun, document, table

MEASUREMENT = EnergyMeasurement(
    total_j=600.0,
    duration_sec=2.0,
    samples=40,
    per_gpu_j={0: 200.0, 1: 400.0},
    start_unix_s=1000.0,
    end_unix_s=1002.0,
    coverage=0.5,
    backend=Backend.NVML,
    per_gpu_bounds_j={0: (190.0, 210.0), 1: (380.0, inf)},
    per_gpu_coverage={0: 1.0, 1: 0.5},
    per_gpu_peak_watts={0: 120.0, 1: 420.0},
)
RUN = CommandRun(
    command=("true",),
    exit_code=0,
    start_unix_s=999.0,
    duration_s=4.0,
    gpus=(Gpu(0, "GPU-0", "A\x1b[31m\n"), Gpu(1, "GPU-1")),
    measured=Measured(MEASUREMENT),
    amounts=(Amount("tokens", 100),),
)


def test_an_unbounded_gpu_leaves_the_total_unbounded() -> None:
    """An infinite bound is null, for the GPU, the total and the amounts; the lower bounds stay."""
    found = document(RUN)
    assert [gpu["joules_high"] for gpu in found["per_gpu"]] == [210.0, None]
    assert (found["joules"], found["joules_low"], found["joules_high"]) == (600.0, 570.0, None)
    assert found["per"] == [
        {"name": "tokens", "amount": 100, "joules_per": 6.0, "joules_per_low": 5.7, "joules_per_high": None}
    ]
    json.dumps(found, allow_nan=False)


def test_mean_power_is_that_of_the_covered_time() -> None:
    """400 J in half of 2 s are 400 W."""
    assert [gpu["mean_watts"] for gpu in document(RUN)["per_gpu"]] == [100.0, 400.0]


def test_a_lost_gpu_has_no_figures() -> None:
    """A GPU without joules is shown with coverage 0, and the total has no upper bound."""
    lost = replace(
        MEASUREMENT,
        total_j=200.0,
        per_gpu_j={0: 200.0},
        per_gpu_bounds_j={0: (190.0, 210.0)},
        per_gpu_coverage={0: 1.0, 1: 0.0},
    )
    found = document(replace(RUN, measured=Measured(lost)))
    assert found["per_gpu"][1]["joules"] is None
    assert found["per_gpu"][1]["mean_watts"] is None
    assert found["per_gpu"][1]["coverage"] == 0.0
    assert (found["joules_low"], found["joules_high"]) == (190.0, None)


def test_a_backend_that_does_not_split_by_gpu() -> None:
    """The total is known, the GPUs' joules are null, and nothing bounds them."""
    whole = replace(
        MEASUREMENT,
        per_gpu_j=None,
        per_gpu_bounds_j=None,
        per_gpu_coverage=None,
        per_gpu_peak_watts=None,
        coverage=1.0,
    )
    found = document(replace(RUN, measured=Measured(whole)))
    assert (found["joules"], found["joules_low"], found["joules_high"]) == (600.0, None, None)
    assert [(gpu["joules"], gpu["coverage"]) for gpu in found["per_gpu"]] == [(None, 1.0)] * 2


def test_the_joules_of_a_node_have_no_rows() -> None:
    """Where only CPU and memory were measured, no GPU is listed."""
    node = replace(MEASUREMENT, per_gpu_j=None, scope="node", per_gpu_coverage=None)
    assert document(replace(RUN, measured=Measured(node)))["per_gpu"] == []


def test_the_table_has_a_dash_for_what_is_unknown() -> None:
    """A missing value is "-", and control characters of a driver are replaced."""
    lines = table(RUN).splitlines()
    assert lines == [
        "llem-measure: 2.000 s, backend nvml, scope gpu, exit code 0",
        "GPU  name     uuid   joules    low   high  mean W  peak W  coverage",
        "0    A [31m   GPU-0   200.0  190.0  210.0   100.0   120.0    1.0000",
        "1    -        GPU-1   400.0  380.0      -   400.0   420.0    0.5000",
        "total 600.0 J (570.0 to -)",
        "tokens: 100, 6 J each (5.7 to -)",
    ]


def test_nothing_measured_is_never_0() -> None:
    """Without a measurement joules are "-" in the table and null in JSON, and the command's times count."""
    reason = MeasurementWarning(WarningCode.ENERGY_UNAVAILABLE, "energy was not measured: no GPU")
    run = replace(RUN, measured=Measured(warnings=(reason,)))
    assert table(run).splitlines() == [
        "llem-measure: 4.000 s, no backend, exit code 0",
        "total - J",
        "tokens: 100, - J each",
        "warning: energy was not measured: no GPU",
    ]
    found = document(run)
    assert (found["joules"], found["coverage"], found["backend"]) == (None, None, None)
    assert (found["start_unix_s"], found["end_unix_s"], found["duration_s"]) == (999.0, 1003.0, 4.0)
