"""How results are shown: the format, the output file and the plots."""

import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Final, NoReturn

from llem_core.errors import ConfigError
from llem_integrator import report
from llem_integrator.options import Options
from llem_integrator.plot import Plot, plot_to
from llem_integrator.plot.gathered import Gathered
from llem_integrator.plot.reading import Asked
from llem_integrator.report import About, output
from llem_integrator.results.fields import WindowResult

if TYPE_CHECKING:
    from llem_integrator.progress import Bar

EXIT_NO_JOULES: Final = 3
EXIT_COVERAGE: Final = 4
EXIT_TERMINATED: Final = 143
_NO_JOULES: Final = frozenset({"no_data", "no_gpu_split", "gpus_unknown"})


@dataclass(frozen=True, slots=True)
class Presentation:
    """How the results of a run are shown."""

    form: str
    path: str
    write: report.Write
    plots: tuple[Plot, ...] = ()

    @property
    def is_printed(self) -> bool:
        return self.path == output.STDOUT

    def show(self, results: Iterable[WindowResult], about: About, asked: Asked, bar: "Bar") -> int:
        """Write the results as they arrive, then the plots. Return the exit code."""
        reasons: set[str] = set()
        gathered = Gathered()

        def noted(results: Iterable[WindowResult]) -> Iterator[WindowResult]:
            for result in results:
                reasons.update(result.reasons)
                if self.plots:
                    gathered.add(result)
                with bar.hidden() if self.is_printed and sys.stdout.isatty() else nullcontext():
                    yield result

        with ExitStack() as stack:
            if self.plots or not self.is_printed:
                signal.signal(signal.SIGTERM, terminated)  # removes temporary files
            plots = [
                (plot, stack.enter_context(output.opened(plot.path, binary=True))) for plot in self.plots
            ]
            out = stack.enter_context(output.opened(self.path, binary=self.form in report.BINARY))
            coming = iter(results)
            first = list(islice(coming, 1))  # if this fails, nothing has been printed
            self.write(noted(chain(first, coming)), out, about)
            for plot, file in plots:
                plot.draw(asked, gathered, file)
        if reasons & _NO_JOULES:
            return EXIT_NO_JOULES
        return EXIT_COVERAGE if "coverage" in reasons else 0


def presentation(given: Options) -> Presentation:
    """Return what the options request. Raises ConfigError if it is not possible."""
    if not given.output:
        raise ConfigError("--output needs the name of a file, or - for standard output")
    if len({given.output, *given.plots}) <= len(given.plots):
        raise ConfigError("--output and each --plot need a file of their own")
    plots = tuple(plot_to(path) for path in given.plots)
    form = given.form or report.format_of(given.output)
    if form in report.BINARY and given.output == output.STDOUT and sys.stdout.isatty():
        raise ConfigError(
            f"{form} is binary and cannot be shown on a terminal; use --output FILE, or pipe it"
        )
    return Presentation(form, given.output, report.writer(form), plots)


def terminated(*_: object) -> NoReturn:
    """Handle SIGTERM by an exception, so that open files and processes are cleaned up."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal must not interrupt that
    raise SystemExit(EXIT_TERMINATED)
