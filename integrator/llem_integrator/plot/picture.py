"""The plot as a PNG or SVG picture by matplotlib, with a row for each of the GPUs with the most energy."""

import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import IO, TYPE_CHECKING, Any, Final

from llem_integrator.plot.gathered import Gathered, merged, shown_j
from llem_integrator.plot.grid import Envelope, Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS: Final = 2_000_000
COLUMNS: Final = 1600
"""About the width of a row in pixels."""

MOST_ROWS: Final = 9
_MOST_EDGES: Final = 12
"""If there are more windows, their edges and names are not drawn."""

_MS_A_DAY: Final = 86_400_000
_LINE, _BAND, _GROUND, _GAP = "#1f5fa8", "#9dbfe6", "#eef3f9", "#f3c3bd"
_HATCHED: Final[dict[str, Any]] = {"facecolor": _GAP, "edgecolor": "#c0392b", "hatch": "///"}
_SETTINGS: Final[dict[Any, Any]] = {
    "svg.hashsalt": "llem",  # the same picture has the same bytes
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name may contain a dollar sign
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "hatch.linewidth": 0.6,
    "timezone": "UTC",
}


def draw(
    gathered: Gathered, envelopes: Mapping[str, Envelope], grid: Grid, out: IO[bytes], kind: str
) -> None:
    """Write the picture. `kind` is "png" or "svg"."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)  # a box is drawn instead
        most = sorted(gathered.gpus.values(), key=lambda gpu: -(gpu.joules or 0.0))[:MOST_ROWS]
        gpus = [gpu for gpu in gathered.gpus.values() if gpu in most]
        count = max(1, len(gpus))
        height = 1.3 + (2.6 if count == 1 else 1.25) * count
        figure = Figure(figsize=(12, height), dpi=130, layout="constrained")
        others = len(gathered.gpus) - len(gpus)
        title = gathered.title() + (f" (without {others} GPUs that used less)" if others else "")
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        axes: list[Axes] = list(figure.subplots(count, 1, sharex=True, sharey=True, squeeze=False)[:, 0])
        for axis in axes:
            _draw_windows(axis, gathered)
        for axis, gpu in zip(axes, gpus, strict=False):
            _draw_gpu(axis, gathered.caption(gpu), envelopes[gpu.uuid])
        _draw_scales(axes, grid)
        _draw_names(axes[0], gathered)
        _draw_legend(figure)
        metadata: dict[str, Any] = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(out, format=kind, metadata=metadata)


def _draw_windows(axis: "Axes", gathered: Gathered) -> None:
    for start, end in merged([(window.start_ms, window.end_ms) for window in gathered.windows]):
        axis.axvspan(start / _MS_A_DAY, end / _MS_A_DAY, color=_GROUND, linewidth=0, zorder=0)
    if len(gathered.windows) <= _MOST_EDGES:
        style: dict[str, Any] = {"color": "#55606e", "linewidth": 0.8, "linestyle": (0, (4, 3)), "zorder": 1}
        for window in gathered.windows:
            axis.axvline(window.start_ms / _MS_A_DAY, **style)
            axis.axvline(window.end_ms / _MS_A_DAY, **style)


def _draw_gpu(axis: "Axes", caption: str, envelope: Envelope) -> None:
    points = envelope.points()
    axis.set_title(caption, loc="left", fontsize=9, pad=3)
    days = points.unix_ms / _MS_A_DAY
    # A single point between two gaps needs a marker, because a line there has no length.
    marker = "." if len(days) <= COLUMNS / 4 else ""
    axis.fill_between(days, points.low, points.high, color=_BAND, linewidth=0.5, zorder=2)
    axis.plot(days, points.mean, color=_LINE, linewidth=0.9, zorder=3, marker=marker, markersize=2)
    for start, end in envelope.gaps_ms():
        axis.axvspan(start / _MS_A_DAY, end / _MS_A_DAY, **_HATCHED, linewidth=0, zorder=1)
    axis.set_ylabel("W")


def _draw_scales(axes: Sequence["Axes"], grid: Grid) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    axes[0].set_ylim(bottom=0)
    axes[0].set_xlim(grid.start_ms / _MS_A_DAY, grid.end_ms / _MS_A_DAY)
    locator = AutoDateLocator(tz=UTC)  # type: ignore[no-untyped-call]
    axes[-1].xaxis.set_major_locator(locator)
    axes[-1].xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))  # type: ignore[no-untyped-call]
    axes[-1].set_xlabel("UTC")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#dddddd", linewidth=0.5)
        axis.set_axisbelow(True)


def _draw_names(axis: "Axes", gathered: Gathered) -> None:
    if not 1 < len(gathered.windows) <= _MOST_EDGES:
        return
    style: dict[str, Any] = {
        "xycoords": ("data", "axes fraction"),
        "ha": "center",
        "va": "top",
        "fontsize": 7,
    }
    for number, window in enumerate(gathered.windows, 1):
        middle = (window.start_ms + window.end_ms) / 2 / _MS_A_DAY
        axis.annotate(f"{window.name or number}\n{shown_j(window.total_j)}", (middle, 0.97), **style)


def _draw_legend(figure: "Figure") -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Line2D([], [], color=_LINE, label="mean"),
        Patch(color=_BAND, label="minimum to maximum"),
        Patch(color=_GROUND, label="window"),
        Patch(**_HATCHED, label="gap: no power samples"),
    ]
    figure.legend(handles=handles, loc="outside lower right", ncols=4, fontsize=8, frameon=False)
