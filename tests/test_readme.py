"""The README matches the programs."""

import re
import subprocess
import sys
from pathlib import Path

from llem_core import metrics

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_metric_table_is_the_metrics() -> None:
    """Each metric of /metrics has a row with its kind, labels and help, in the order of the page."""
    rows = re.findall(r"^\| `(llem_\w+)` \| (\w+) \| ([\w, ]*) \| (.*) \|$", README, re.MULTILINE)
    assert rows == [
        (spec.name, str(spec.kind), ", ".join(spec.labels), spec.help) for spec in metrics.METRICS_PAGE
    ]


def test_options_in_the_readme_exist() -> None:
    """Each --option that the README names before its section on development is in a program's --help."""
    help_text = "".join(
        subprocess.run(
            [sys.executable, "-m", program, "--help"], capture_output=True, text=True, check=True
        ).stdout
        for program in ("llem_exporter", "llem_integrator")
    )
    text = README.partition("## Development")[0]
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z.-]+", text)):
        assert option in help_text, option


def test_history_series_are_named() -> None:
    """The README names each series of /history."""
    for spec in metrics.HISTORY_PAGE:
        assert f"`{spec.name}`" in README
