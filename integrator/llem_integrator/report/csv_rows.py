"""CSV: a row for each window and GPU, times in unix seconds, several words of a field joined by ";"."""

import csv
from collections.abc import Iterable
from typing import IO, Any

from llem_integrator.energy.result import WindowResult
from llem_integrator.report import About
from llem_integrator.report.columns import Kind, columns, rows


def write(results: Iterable[WindowResult], out: IO[str], about: About) -> None:
    """Yield the header, then the rows of each window. An unknown value is empty."""
    wanted = columns(about.added)
    kinds = [column.kind for column in wanted]
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(column.name for column in wanted)
    for result in results:
        for row in rows(result, wanted):
            lines.writerow(_text(value, kind) for value, kind in zip(row, kinds, strict=True))
        out.flush()


def _text(value: Any, kind: Kind) -> Any:
    if value is None:
        return ""
    match kind:
        case Kind.FLAG:
            return "true" if value else "false"
        case Kind.TEXTS:
            return ";".join(value)
        case _:
            return value
