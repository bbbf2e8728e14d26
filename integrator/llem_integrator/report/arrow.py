"""Results as typed Arrow record batches, for Parquet and data frames."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from llem_integrator.report import About, require
from llem_integrator.report.columns import ColumnType, Row, columns, rows
from llem_integrator.results.fields import WindowResult

_ROWS: Final = 8_192
"""The number of rows in a batch, and so in a row group of Parquet."""


def schema(about: About) -> Any:
    """Return the types of the columns. The metadata contain the source and the notes."""
    pa = require("pyarrow", "Arrow", "pyarrow")
    types = {
        ColumnType.TEXT: pa.string(),
        ColumnType.TEXTS: pa.list_(pa.string()),
        ColumnType.NUMBER: pa.float64(),
        ColumnType.COUNT: pa.int64(),
        ColumnType.FLAG: pa.bool_(),
        ColumnType.TIME: pa.timestamp("us", tz="UTC"),
    }
    notes = {name: {"note": note} for name, note in about.notes.items()}
    fields = [
        pa.field(column.name, types[column.kind], metadata=notes.get(column.name))
        for column in columns(about.added)
    ]
    return pa.schema(fields, metadata={"llem_schema": "1", "llem_source": _encodable(about.source)})


def batches(results: Iterable[WindowResult], about: About) -> Iterator[Any]:
    """Yield record batches of about 8,192 rows, each as soon as it is full."""
    wanted, types = columns(about.added), schema(about)
    kinds = [column.kind for column in wanted]
    waiting: list[Row] = []
    for result in results:
        waiting += rows(result, wanted)
        if len(waiting) >= _ROWS:
            yield _batch(waiting, kinds, types)
            waiting = []
    if waiting:
        yield _batch(waiting, kinds, types)


def _batch(batch: list[Row], kinds: Iterable[ColumnType], types: Any) -> Any:
    pa = require("pyarrow", "Arrow", "pyarrow")
    arrays = [
        pa.array([_cell(value, kind) for value in values], field.type)
        for kind, values, field in zip(kinds, zip(*batch, strict=True), types, strict=True)
    ]
    return pa.record_batch(arrays, schema=types)


def _cell(value: Any, kind: ColumnType) -> Any:
    match kind:
        case ColumnType.TIME:
            return round(value * 1e6)
        case ColumnType.TEXT if value is not None:
            return _encodable(value)
        case ColumnType.TEXTS if value is not None:
            return [_encodable(text) for text in value]
        case _:
            return value


def _encodable(text: str) -> str:
    """Return the text without what UTF-8 cannot encode; an argument may contain invalid bytes."""
    return str(text).encode("utf-8", "replace").decode()
