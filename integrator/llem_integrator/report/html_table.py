"""Results as HTML tables, for notebooks."""

from collections.abc import Iterable
from html import escape

from llem_integrator.report import About
from llem_integrator.report.table import cells, remarks, title
from llem_integrator.results.fields import WindowResult


def tables(results: Iterable[WindowResult], about: About) -> str:
    """Return a table for each window, with its warnings below it."""
    return "".join(_window(result, about) for result in results) or "<p>no windows</p>"


def _window(result: WindowResult, about: About) -> str:
    headings, rows = cells(result, about)
    total = "no joules" if result.total_j is None else f"{result.total_j:.1f} J"
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    below = "".join(f"<li>{escape(remark)}</li>" for remark in remarks(result))
    return (
        f"<table><caption>{escape(f'{title(result)}: {total}, {result.backend}')}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{f'<ul>{below}</ul>' if below else ''}"
    )
