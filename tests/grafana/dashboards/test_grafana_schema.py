"""The dashboards against Grafana's own types, by TypeScript's compiler, and against its units."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.grafana.dashboards.panels import DASHBOARDS, PANELS
from tests.grafana.dashboards.schema_check import NEWEST, OLDER, complaints, options, units, whole

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]
ALL_PANELS = list(PANELS.values())


@pytest.mark.parametrize("package", [NEWEST, *OLDER])
def test_they_are_dashboards(npm_packages: Path, package: str) -> None:
    """Each file matches the Dashboard type of Grafana 9 to 13 and has no unknown fields."""
    assert complaints(npm_packages, whole(list(DASHBOARDS.values()), package)) == ""


def test_options_are_those_of_their_panels(npm_packages: Path) -> None:
    """Options and field settings match the types of their kind of panel."""
    assert complaints(npm_packages, options(ALL_PANELS)) == ""


def test_the_compiler_would_notice(npm_packages: Path) -> None:
    """A wrong value, an unknown key and an option of another kind of panel are rejected."""
    dashboard: dict[str, Any] = json.loads(json.dumps(next(iter(DASHBOARDS.values()))))
    dashboard["graphTooltip"] = "1"
    dashboard["panels"][0]["grid"] = {}
    text = complaints(npm_packages, whole([dashboard], NEWEST))
    assert "DashboardCursorSync" in text
    assert """'"grid"' does not exist""" in text
    stat = {"type": "stat", "options": {"showHeader": True}, "fieldConfig": {"defaults": {}}}
    assert """'"showHeader"' does not exist""" in complaints(npm_packages, options([stat]))


def test_units_are_grafanas(npm_packages: Path) -> None:
    """Every unit of a panel or a column exists in @grafana/data."""
    used = {panel["fieldConfig"]["defaults"]["unit"] for panel in ALL_PANELS}
    for panel in ALL_PANELS:
        for override in panel["fieldConfig"]["overrides"]:
            used |= {one["value"] for one in override["properties"] if one["id"] == "unit"}
    known = units(npm_packages)
    assert len(known) > 200
    assert {"watt", "joule", "kwatth", "massg"} <= used <= known
