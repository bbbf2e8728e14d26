"""The dashboards that the generator writes, and their panels."""

import json
from typing import Any, Final

from grafana.make_dashboards import documents

Panel = dict[str, Any]

DASHBOARDS: Final[dict[str, dict[str, Any]]] = {name: json.loads(text) for name, text in documents().items()}
PANELS: Final[dict[str, Panel]] = {
    f"{name}: {panel['title']}": panel for name, one in DASHBOARDS.items() for panel in one["panels"]
}
"""All panels, by 'FILE: TITLE'."""

QUERIED: Final = {name: panel for name, panel in PANELS.items() if panel["type"] != "text"}


def named(dashboard: str, title: str) -> Panel:
    """The panel of this title."""
    return PANELS[f"{dashboard}: {title}"]
