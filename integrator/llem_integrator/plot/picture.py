"""The plot as PNG or SVG, by matplotlib: a row a GPU; of many the largest, and one band for the others."""

import warnings
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, Final

from llem_integrator.plot.gathered import Gathered, Gpu, merged, shown_j
from llem_integrator.plot.grid import Envelope, Grid, Points, band

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS: Final = 2_000_000
COLUMNS: Final = 1600
"""About the pixels that a row is wide."""

MOST_ROWS: Final = 9
_EDGES: Final = 12
"""Up to so many windows have their edges and names drawn; more have only their ground."""

_MS_A_DAY: Final = 86_400_000
_LINE, _BAND, _GROUND, _GAP = "#1f5fa8", "#9dbfe6", "#eef3f9", "#f3c3bd"
_SETTINGS: Final[dict[Any, Any]] = {
    "svg.hashsalt": "llem",  # the same picture has the same bytes
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name may hold a dollar sign
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "hatch.linewidth": 0.6,
    "timezone": "UTC",
}


def draw(
    gathered: Gathered, envelopes: Mapping[str, Envelope], grid: Grid, out: IO[bytes], kind: str
) -> None:
    """Writes the picture; `kind` is "png" or "svg"."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)  # it draws a box
        rows = _rows(gathered, envelopes)
        count = max(1, len(rows))
        figure = Figure(
            figsize=(12, 1.3 + (2.6 if count == 1 else 1.25) * count), dpi=130, layout="constrained"
        )
        figure.suptitle(gathered.title(), x=0.01, ha="left", fontsize=11, fontweight="bold")
        axes: list[Axes] = list(figure.subplots(count, 1, sharex=True, sharey=True, squeeze=False)[:, 0])
        for axis in axes:
            _ground(axis, gathered)
        for axis, (caption, points, gaps_ms) in zip(axes, rows, strict=False):
            _row(axis, caption, points, gaps_ms)
        _finish(figure, axes, gathered, grid)
        metadata: dict[str, Any] = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(out, format=kind, metadata=metadata)


def _rows(
    gathered: Gathered, envelopes: Mapping[str, Envelope]
) -> list[tuple[str, Points, list[tuple[float, float]]]]:
    """Caption, points and gaps of each row: every GPU, or those with most joules and the others as a band."""
    gpus = list(gathered.gpus.values())
    shown = gpus
    if len(gpus) > MOST_ROWS:
        largest = sorted(gpus, key=lambda gpu: -(gpu.joules or 0.0))[: MOST_ROWS - 1]
        shown = [gpu for gpu in gpus if gpu in largest]
    rows = [
        (gathered.caption(gpu), envelopes[gpu.uuid].points(), envelopes[gpu.uuid].gaps_ms()) for gpu in shown
    ]
    others = [gpu for gpu in gpus if gpu not in shown]
    if others:
        points = band([envelopes[gpu.uuid] for gpu in others])
        rows.append((_caption_of_others(others), points, []))
    return rows


def _caption_of_others(others: Sequence[Gpu]) -> str:
    known = [gpu.joules for gpu in others if gpu.joules is not None]
    joules = shown_j(sum(known) if len(known) == len(others) else None)
    return f"the other {len(others)} GPUs: {joules}; lowest, highest and mean of all (gaps are not shown)"


def _ground(axis: "Axes", gathered: Gathered) -> None:
    """The windows as ground, and where they are few, their edges."""
    for start, end in merged([(window.start_ms, window.end_ms) for window in gathered.windows]):
        axis.axvspan(start / _MS_A_DAY, end / _MS_A_DAY, color=_GROUND, linewidth=0, zorder=0)
    if len(gathered.windows) <= _EDGES:
        for window in gathered.windows:
            for edge in (window.start_ms, window.end_ms):
                axis.axvline(
                    edge / _MS_A_DAY, color="#55606e", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1
                )


def _row(axis: "Axes", caption: str, points: Points, gaps_ms: Sequence[tuple[float, float]]) -> None:
    axis.set_title(caption, loc="left", fontsize=9, pad=3)
    days = points.unix_ms / _MS_A_DAY
    # A lone point between two gaps is a mark: a line has no length there.
    marker = "." if len(days) <= COLUMNS / 4 else ""
    axis.fill_between(days, points.low, points.high, color=_BAND, linewidth=0.5, zorder=2)
    axis.plot(days, points.mean, color=_LINE, linewidth=0.9, zorder=3, marker=marker, markersize=2)
    for start, end in gaps_ms:
        axis.axvspan(
            start / _MS_A_DAY,
            end / _MS_A_DAY,
            facecolor=_GAP,
            edgecolor="#c0392b",
            hatch="///",
            linewidth=0,
            zorder=1,
        )
    axis.set_ylabel("W")


def _finish(figure: "Figure", axes: Sequence["Axes"], gathered: Gathered, grid: Grid) -> None:
    from datetime import UTC

    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    top, bottom = axes[0], axes[-1]
    top.set_ylim(bottom=0)
    top.set_xlim(grid.start_ms / _MS_A_DAY, grid.end_ms / _MS_A_DAY)
    locator = AutoDateLocator(tz=UTC)  # type: ignore[no-untyped-call]
    bottom.xaxis.set_major_locator(locator)
    formatter = ConciseDateFormatter(locator, tz=UTC)  # type: ignore[no-untyped-call]
    bottom.xaxis.set_major_formatter(formatter)
    bottom.set_xlabel("UTC")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#dddddd", linewidth=0.5)
        axis.set_axisbelow(True)
    if 1 < len(gathered.windows) <= _EDGES:
        for number, window in enumerate(gathered.windows, 1):
            text = f"{window.name or number}\n{shown_j(window.total_j)}"
            middle = (window.start_ms + window.end_ms) / 2 / _MS_A_DAY
            top.annotate(
                text, (middle, 0.97), xycoords=("data", "axes fraction"), ha="center", va="top", fontsize=7
            )
    handles: list[Any] = [
        Line2D([], [], color=_LINE, label="mean"),
        Patch(color=_BAND, label="lowest to highest"),
        Patch(color=_GROUND, label="window"),
        Patch(facecolor=_GAP, edgecolor="#c0392b", hatch="///", label="gap: no power samples"),
    ]
    figure.legend(handles=handles, loc="outside lower right", ncols=4, fontsize=8, frameon=False)
