"""The trace that ships with the package."""

import csv
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest

TRACES = Path(__file__).parents[2] / "exporter" / "llem_exporter" / "replay" / "traces"
STEP_S = Fraction(1, 20)

Row = tuple[Fraction, Fraction, Fraction]


def trace(gpu: str) -> list[Row]:
    """(seconds, watts, joules) of each row of one GPU, exactly as written."""
    with (TRACES / "llm_serving.csv").open(newline="") as file:
        return [
            (Fraction(row["seconds"]), Fraction(row["watts"]), Fraction(row["joules"]))
            for row in csv.DictReader(file)
            if row["gpu"] == gpu
        ]


def test_script_reproduces_the_trace_to_the_byte() -> None:
    """The script next to the trace writes exactly this trace."""
    made = subprocess.run(
        [sys.executable, str(Path(__file__).parents[1] / "make_llm_serving.py")],
        capture_output=True,
        check=True,
    )
    packaged = (TRACES / "llm_serving.csv").read_bytes()
    assert made.stdout == packaged
    assert len(packaged) < 120_000


@pytest.mark.parametrize("gpu", ["0", "1"])
def test_joules_are_the_exact_trapezoid(gpu: str) -> None:
    """Between two rows, the counter rises exactly by the trapezoid of their watts."""
    rows = trace(gpu)
    assert len(rows) == 1201
    assert rows[-1][0] == 60
    assert rows[0][2] >= 1_000_000
    for (seconds0, watts0, joules0), (seconds1, watts1, joules1) in pairwise(rows):
        assert seconds1 - seconds0 == STEP_S
        assert joules1 - joules0 == (watts0 + watts1) / 2 * STEP_S


@pytest.mark.parametrize("gpu", ["0", "1"])
def test_watts_look_like_llm_serving_and_close_the_loop(gpu: str) -> None:
    """Watts are multiples of 1/8 with idle, prefill and decode phases. The last row equals the first."""
    watts = [watts for _, watts, _ in trace(gpu)]
    assert all((8 * value).denominator == 1 for value in watts)
    assert 69 < min(watts) < 90
    assert 600 < max(watts) < 690
    assert sum(340 < value < 450 for value in watts) > len(watts) / 3
    assert watts[0] == watts[-1]


def test_gpus_are_unlike() -> None:
    """The two GPUs have different phases."""
    pairs = zip(trace("0"), trace("1"), strict=True)
    assert sum((first[1] > 200) != (second[1] > 200) for first, second in pairs) > 100
