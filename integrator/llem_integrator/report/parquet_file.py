"""Parquet: the columns of CSV with types. Times are timestamps in UTC."""

from collections.abc import Iterable
from typing import IO, Any

from llem_integrator.report import About, arrow, require
from llem_integrator.results.fields import WindowResult


class _Counted:
    """A stream that counts the bytes written to it, because a pipe has no position."""

    closed = False

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._written = 0

    def write(self, data: Any) -> int:
        self._out.write(data)
        self._written += len(data)
        return len(data)

    def tell(self) -> int:
        return self._written

    def flush(self) -> None:
        self._out.flush()

    def close(self) -> None:
        """Do nothing: the caller that opened the stream closes it."""


def write(results: Iterable[WindowResult], out: IO[bytes], about: About) -> None:
    """Write the file, one row group at a time."""
    parquet = require("pyarrow.parquet", "--format parquet", "pyarrow")
    with parquet.ParquetWriter(_Counted(out), arrow.schema(about), compression="zstd") as file:
        for batch in arrow.batches(results, about):
            file.write_batch(batch)
