"""Each target of atheris, for a second; `python -m tests.fuzz.run TARGET --seconds 600` is the real thing."""

import re
import subprocess
import sys

import pytest

from tests.fuzz.test_inputs import TARGETS

pytestmark = pytest.mark.full


@pytest.mark.parametrize("name", TARGETS)
def test_a_second_of_coverage_guided_inputs_finds_nothing(name: str) -> None:
    """One second of coverage-guided fuzzing finds no failure."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", name, "--seconds", "1"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    executed = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    assert executed is not None, done.stderr[-4000:]
    assert int(executed[1]) > 10
