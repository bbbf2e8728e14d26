"""Write grafana/dashboards/*.json from grafana/source: `python -m grafana.make_dashboards` in the root."""

import json
from pathlib import Path
from typing import Final

from grafana.source import emissions, health, job_window, power

FOLDER: Final = Path(__file__).parent / "dashboards"


def documents() -> dict[str, str]:
    """The text of every dashboard's file, by its name."""
    dashboards = [module.dashboard() for module in (power, job_window, emissions, health)]
    return {
        f"{one.uid.removeprefix('llem-')}.json": json.dumps(one.json(), indent=2) + "\n" for one in dashboards
    }


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in documents().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
