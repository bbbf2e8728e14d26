"""Plots of the power of each GPU, as a picture or as an HTML page that can be zoomed."""

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
    """A plot into a file. The suffix of the file is the kind of the plot."""

    path: str
    kind: str

    def draw(self, asked: Asked, gathered: Gathered, out: IO[bytes]) -> None:
        """Read the power samples of all windows again, in pieces, and write the plot. Raises SourceError."""
        from llem_integrator.plot import page, picture

        module = page if self.kind == "html" else picture
        grid = grid_of(gathered, module.POINTS, module.COLUMNS)
        envelopes = read(asked, gathered, grid)
        if self.kind == "html":
            page.draw(gathered, envelopes, grid, out)
        else:
            picture.draw(gathered, envelopes, grid, out, self.kind)


def plot_to(path: str) -> Plot:
    """Return the plot for a file. Raises ConfigError for an unknown suffix, or if matplotlib is missing."""
    kind = PurePath(path).suffix.removeprefix(".").lower()
    if kind not in KINDS:
        raise ConfigError(
            f"--plot {path!r} has none of the suffixes {', '.join(f'.{kind}' for kind in KINDS)}"
        )
    if kind != "html":
        require("matplotlib", f"--plot {path}", "matplotlib")
    return Plot(path, kind)
