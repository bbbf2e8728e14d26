"""How results are given: with which figures, in which format, where to, and with which plot."""

import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Final, NoReturn

from llem_core.errors import ConfigError
from llem_integrator import report
from llem_integrator.energy.result import WindowResult
from llem_integrator.options import Options
from llem_integrator.plot import Plot, plot_to
from llem_integrator.plot.gathered import Gathered
from llem_integrator.plot.reading import Asked
from llem_integrator.report import About, calibration, output
from llem_integrator.report.figures import Figures

if TYPE_CHECKING:
    from llem_integrator.progress import Bar

EXIT_NO_JOULES: Final = 3
EXIT_COVERAGE: Final = 4
EXIT_TERMINATED: Final = 143
_NO_JOULES: Final = frozenset({"no_data", "no_gpu_split", "gpus_unknown"})


@dataclass(frozen=True, slots=True)
class Presentation:
    """What was asked of the answer; it is checked before anything is read."""

    form: str
    path: str
    write: report.Write
    figures: Figures
    plots: tuple[Plot, ...] = ()

    @property
    def on_stdout(self) -> bool:
        return self.path == output.STDOUT

    def give(
        self,
        asked: Asked,
        results: Iterable[WindowResult],
        bar: "Bar",
        added: tuple[str, ...] = (),
    ) -> int:
        """Prints results as they come and draws their plot; returns the exit code.

        `added` are fields to show beside those of the figures.
        """
        reasons: set[str] = set()
        gathered = Gathered()
        about = About(asked.source.address, (*self.figures.added, *added), self.figures.notes())
        with ExitStack() as stack:
            if self.plots or not self.on_stdout:
                signal.signal(signal.SIGTERM, terminated)  # no half of a file is left
            drawing = [
                (plot, stack.enter_context(output.opened(plot.path, binary=True))) for plot in self.plots
            ]
            out = stack.enter_context(output.opened(self.path, binary=self.form in report.BINARY))
            coming = iter(results)
            first = list(islice(coming, 1))  # what fails at once has printed nothing
            shown = self._figured(chain(first, coming), reasons, gathered)
            if self.on_stdout and sys.stdout.isatty():
                shown = _while_hidden(shown, bar)
            self.write(shown, out, about)
            for plot, file in drawing:
                plot.draw(asked, gathered, file)
        if reasons & _NO_JOULES:
            return EXIT_NO_JOULES
        return EXIT_COVERAGE if "coverage" in reasons else 0

    def _figured(
        self, results: Iterable[WindowResult], reasons: set[str], gathered: Gathered
    ) -> Iterator[WindowResult]:
        for result in map(self.figures.of, results):
            reasons.update(result.reasons)
            if self.plots:
                gathered.add(result)
            yield result


def of(given: Options) -> Presentation:
    """The presentation that the options ask for; raises ConfigError for what cannot be."""
    if given.form in report.BINARY and given.output == output.STDOUT and sys.stdout.isatty():
        raise ConfigError(f"{given.form} is no text for a terminal; give --output FILE, or pipe it")
    if not given.output:
        raise ConfigError("--output names no file (write - for standard output)")
    if len({given.output, *given.plots}) <= len(given.plots):
        raise ConfigError("--output and each --plot need a file of their own")
    plots = tuple(plot_to(path) for path in given.plots)
    return Presentation(given.form, given.output, report.writer(given.form), _figures(given), plots)


def _figures(given: Options) -> Figures:
    return Figures(
        emissions=given.emissions or given.carbon_intensity is not None,
        grams_per_kwh=given.carbon_intensity,
        pue=given.pue,
        price_per_kwh=given.price,
        calibration=None if given.calibration is None else calibration.read(given.calibration),
        idle_watts=given.idle_watts,
    )


def _while_hidden(results: Iterable[WindowResult], bar: "Bar") -> Iterator[WindowResult]:
    """The results; while one of them is printed, the bar is not there."""
    for result in results:
        with bar.hidden():
            yield result


def terminated(*_: object) -> NoReturn:
    """A handler of SIGTERM under which everything that is open is still tidied up."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end is not interrupted again
    raise SystemExit(EXIT_TERMINATED)
