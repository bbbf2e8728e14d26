"""Results as Arrow record batches, with types: what Parquet and data frames are made of."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from llem_integrator.energy.result import WindowResult
from llem_integrator.report import About, require
from llem_integrator.report.columns import Column, Kind, Row, columns, rows

ROWS: Final = 8_192
"""In a batch, and so in a row group of Parquet."""


def schema(about: About) -> Any:
    """The columns' types. Source and notes are in the metadata."""
    pa = _arrow()
    types = {
        Kind.TEXT: pa.string(),
        Kind.TEXTS: pa.list_(pa.string()),
        Kind.NUMBER: pa.float64(),
        Kind.COUNT: pa.int64(),
        Kind.FLAG: pa.bool_(),
        Kind.TIME: pa.timestamp("us", tz="UTC"),
    }
    fields = [
        pa.field(
            column.name,
            types[column.kind],
            metadata={"note": about.notes[column.name]} if column.name in about.notes else None,
        )
        for column in columns(about.added)
    ]
    return pa.schema(fields, metadata={"llem_schema": "1", "llem_source": _printable(about.source)})


def batches(results: Iterable[WindowResult], about: About) -> Iterator[Any]:
    """Record batches of at most about ROWS rows, each made when it is full."""
    wanted, types = columns(about.added), schema(about)
    held: list[Row] = []
    for result in results:
        held += rows(result, wanted)
        if len(held) >= ROWS:
            yield _batch(held, wanted, types)
            held = []
    if held:
        yield _batch(held, wanted, types)


def _batch(held: list[Row], wanted: tuple[Column, ...], types: Any) -> Any:
    pa = _arrow()
    arrays = []
    for column, values, one in zip(wanted, zip(*held, strict=True), types, strict=True):
        match column.kind:
            case Kind.TIME:
                cells: list[Any] = [round(value * 1e6) for value in values]
            case Kind.TEXT:
                cells = [None if value is None else _printable(value) for value in values]
            case Kind.TEXTS:
                cells = [None if value is None else [_printable(text) for text in value] for value in values]
            case _:
                cells = list(values)
        arrays.append(pa.array(cells, one.type))
    return pa.record_batch(arrays, schema=types)


def _printable(text: str) -> str:
    """The text in signs that UTF-8 has; an argument may hold bytes that are none."""
    return str(text).encode("utf-8", "replace").decode()


def _arrow() -> Any:
    return require("pyarrow", "Arrow", "pyarrow")
