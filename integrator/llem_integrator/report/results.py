"""Results in a notebook: a sequence that shows itself as a table, and becomes a data frame."""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, overload

from llem_integrator.energy.result import WindowResult
from llem_integrator.report import About, require, writer
from llem_integrator.report.figures import Figures

if TYPE_CHECKING:
    from llem_integrator.stores import Source


@dataclass(frozen=True, slots=True)
class Results(Sequence[WindowResult]):
    """The results of some windows, and what they were made of.

    A row of a table or data frame is a window and a GPU; a window without GPUs has one row.
    """

    windows: tuple[WindowResult, ...]
    about: About

    @classmethod
    def of(cls, source: "Source", results: Iterable[WindowResult], figures: Figures | None = None) -> Self:
        """All results of `integrate`, with the figures that are wanted; raises SourceError."""
        figures = figures or Figures()
        about = About(source.address, figures.added, figures.notes())
        return cls(tuple(figures.of(result) for result in results), about)

    @overload
    def __getitem__(self, index: int) -> WindowResult: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[WindowResult]: ...
    def __getitem__(self, index: int | slice) -> WindowResult | Sequence[WindowResult]:
        return self.windows[index]

    def __len__(self) -> int:
        return len(self.windows)

    def __iter__(self) -> Iterator[WindowResult]:
        return iter(self.windows)

    def to_arrow(self) -> Any:
        """A pyarrow.Table with the columns of CSV and Parquet; raises ConfigError without pyarrow."""
        from llem_integrator.report import arrow

        pyarrow = require("pyarrow", "to_arrow()", "pyarrow")
        return pyarrow.Table.from_batches(arrow.batches(self.windows, self.about), arrow.schema(self.about))

    def to_pandas(self) -> Any:
        """A pandas.DataFrame of to_arrow(); raises ConfigError without pandas or pyarrow."""
        require("pandas", "to_pandas()", "pandas pyarrow")
        return self.to_arrow().to_pandas()

    def to_json(self) -> str:
        """The document that `llem-integrate --format json` prints."""
        return self._written("json")

    def __str__(self) -> str:
        return self._written("table")

    def _repr_html_(self) -> str:
        from llem_integrator.report.html_table import tables

        return tables(self.windows, self.about)

    def _written(self, form: str) -> str:
        out = io.StringIO()
        writer(form)(self.windows, out, self.about)
        return out.getvalue()
