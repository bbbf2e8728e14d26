"""Power per GPU over the windows, as a picture or as one page with zoom: `--plot`."""

from dataclasses import dataclass
from pathlib import PurePath
from typing import IO, Final

from llem_core.errors import ConfigError
from llem_integrator.plot.gathered import Gathered
from llem_integrator.plot.reading import Asked, grid_of, read
from llem_integrator.report import require

KINDS: Final = ("png", "svg", "html")


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot that was asked for, of a kind by its file's suffix."""

    path: str
    kind: str

    def draw(self, asked: Asked, gathered: Gathered, out: IO[bytes]) -> None:
        """Reads the power of all windows again, in pieces, and writes the plot; raises SourceError."""
        from llem_integrator.plot import page, picture

        on_page = self.kind == "html"
        points, columns = (page.POINTS, page.COLUMNS) if on_page else (picture.POINTS, picture.COLUMNS)
        grid = grid_of(gathered, points, columns)
        envelopes = read(asked, gathered, grid)
        if on_page:
            page.draw(gathered, envelopes, grid, out)
        else:
            picture.draw(gathered, envelopes, grid, out, self.kind)


def plot_to(path: str) -> Plot:
    """The plot for a file; raises ConfigError for a suffix that it knows not, and without matplotlib."""
    kind = PurePath(path).suffix.removeprefix(".").lower()
    if kind not in KINDS:
        raise ConfigError(f"--plot {path!r} is none of {', '.join(f'.{name}' for name in KINDS)}")
    if kind != "html":
        require("matplotlib", f"--plot {path}", "matplotlib")
    return Plot(path, kind)
