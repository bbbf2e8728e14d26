"""CSV: a row for each window and GPU. Times are unix seconds, and several texts are joined by ";"."""

import csv
from collections.abc import Iterable
from typing import IO, Any

from llem_integrator.report import About
from llem_integrator.report.columns import columns, rows
from llem_integrator.results.fields import WindowResult


def write(results: Iterable[WindowResult], out: IO[str], about: About) -> None:
    """Write the header, then the rows of each window. An unknown value is empty."""
    wanted = columns(about.added)
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(column.name for column in wanted)
    for result in results:
        lines.writerows(map(_text, row) for row in rows(result, wanted))
        out.flush()


def _text(value: Any) -> Any:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case tuple():
            return ";".join(value)
        case _:
            return value
