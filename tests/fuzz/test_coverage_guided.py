"""Each target of atheris, with a few inputs. `python -m tests.fuzz.run TARGET --seconds 600` tries many."""

import re
import subprocess
import sys

import pytest

from tests.fuzz.test_inputs import TARGETS

pytestmark = pytest.mark.full
RUNS = 100


@pytest.mark.parametrize("name", TARGETS)
def test_coverage_guided_inputs_find_nothing(name: str) -> None:
    """A few coverage-guided inputs find no failure."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", name, "--runs", str(RUNS), "--seconds", "400"],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    executed = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    assert executed is not None, done.stderr[-4000:]
    assert int(executed[1]) >= RUNS
