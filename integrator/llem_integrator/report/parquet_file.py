"""Parquet: the columns of CSV with types; times are timestamps in UTC."""

from collections.abc import Iterable
from typing import IO, Any

from llem_integrator.energy.result import WindowResult
from llem_integrator.report import About, arrow, require


class _Counted:
    """A stream that knows how much went into it; a pipe cannot be asked where it is."""

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
        """Do nothing: the caller that opened the file closes it."""


def write(results: Iterable[WindowResult], out: IO[bytes], about: About) -> None:
    """The file, a row group at a time."""
    parquet = require("pyarrow.parquet", "--format parquet", "pyarrow")
    types = arrow.schema(about)
    with parquet.ParquetWriter(_Counted(out), types, compression="zstd") as file:
        for batch in arrow.batches(results, about):
            file.write_batch(batch)
