"""Results for a library or notebook: a sequence that is shown as a table and becomes a data frame."""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, overload

from llem_core.measurement import MeasurementWarning, WarningCode
from llem_integrator.report import About, require, writer
from llem_integrator.report.figures import about, with_figures
from llem_integrator.results.fields import WindowResult
from llem_integrator.results.request import Request

if TYPE_CHECKING:
    from llem_integrator.reading import Reader
    from llem_integrator.stores import Progress, Source
    from llem_integrator.windows.window import Window


@dataclass(frozen=True, slots=True)
class Results(Sequence[WindowResult]):
    """The results of windows, in their order.

    A row of a table or data frame is one window and GPU. A window without GPUs has one row.
    """

    windows: tuple[WindowResult, ...]
    about: About

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
        """Return a pyarrow.Table with the columns of CSV. Raises ConfigError if pyarrow is not installed."""
        from llem_integrator.report import arrow

        pyarrow = require("pyarrow", "to_arrow()", "pyarrow")
        return pyarrow.Table.from_batches(arrow.batches(self.windows, self.about), arrow.schema(self.about))

    def to_pandas(self) -> Any:
        """Return a pandas.DataFrame. Raises ConfigError if pandas or pyarrow is not installed."""
        require("pandas", "to_pandas()", "pandas pyarrow")
        return self.to_arrow().to_pandas()

    def to_json(self) -> str:
        """Return the document that `llem-integrate --format json` prints."""
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


def run(source: "Source", windows: "Iterable[Window]", request: Request | None = None) -> Results:
    """Measure the windows in a source and return their results. Raises SourceError and ConfigError."""
    request = request or Request()
    return Results(tuple(stream(source, windows, request)), about(source.address, request))


def stream(
    source: "Source",
    windows: "Iterable[Window]",
    request: Request | None = None,
    progress: "Progress | None" = None,
    reader: "Reader | None" = None,
) -> Iterator[WindowResult]:
    """Yield the result of each window, in their order, as soon as it is known.

    `progress` is called with the number of windows that are done. `reader` reads the power traces on other
    machines. Raises SourceError and ConfigError.
    """
    from llem_integrator.contents import Explainer
    from llem_integrator.integration import integrate

    request = request or Request()
    every = list(windows)
    explainer = Explainer(source)
    results = integrate(source, every, request, progress or (lambda _: None), reader)
    for window, result in zip(every, results, strict=True):
        figured = with_figures(result, request)
        if "no_data" in result.reasons:
            text = explainer.explain(result, window.selectors or request.selectors)
            warning = MeasurementWarning(WarningCode.ENERGY_UNAVAILABLE, text)
            figured = replace(figured, warnings=(*figured.warnings, warning))
        yield figured
