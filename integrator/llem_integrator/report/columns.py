"""The columns of CSV, Parquet and Arrow: a row for each window and GPU.

A window without GPUs has one row, whose GPU columns are empty, so that its reasons are there too.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from llem_core.backend import Backend
from llem_integrator.energy.result import GpuEnergy, WindowResult

Row = tuple[Any, ...]


class Kind(StrEnum):
    """What a column holds; a time is in unix seconds, texts are a tuple of them."""

    TEXT = "text"
    TEXTS = "texts"
    NUMBER = "number"
    COUNT = "count"
    FLAG = "flag"
    TIME = "time"


@dataclass(frozen=True, slots=True)
class Column:
    """A column, and how its value is had of a window and one of its GPUs (None: it has none)."""

    name: str
    kind: Kind
    of: Callable[[WindowResult, GpuEnergy | None], Any]


def _window(name: str, kind: Kind, column: str = "") -> Column:
    return Column(column or name, kind, lambda result, _: getattr(result, name))


def _gpu(name: str, kind: Kind, column: str = "") -> Column:
    return Column(column or name, kind, lambda _, gpu: None if gpu is None else getattr(gpu, name))


def _joules_by(backend: Backend) -> Column:
    def of(_: WindowResult, gpu: GpuEnergy | None) -> float | None:
        return None if gpu is None else gpu.joules_by_backend.get(backend)

    return Column(f"joules_{backend}", Kind.NUMBER, of)


def _warnings(result: WindowResult, gpu: GpuEnergy | None) -> tuple[str, ...]:
    """Codes of what was said of this GPU and of the window, each once."""
    concerned = (None,) if gpu is None else (None, gpu.uuid)
    return tuple(dict.fromkeys(str(one.code) for one in result.warnings if one.uuid in concerned))


COLUMNS: Final = (
    _window("name", Kind.TEXT, "window"),
    _window("start", Kind.TIME),
    _window("end", Kind.TIME),
    _window("duration_sec", Kind.NUMBER),
    _window("valid", Kind.FLAG),
    _window("reasons", Kind.TEXTS),
    _window("backend", Kind.TEXT, "window_backend"),
    _window("scope", Kind.TEXT),
    _window("total_j", Kind.NUMBER),
    _gpu("uuid", Kind.TEXT),
    _gpu("gpu", Kind.TEXT),
    _gpu("name", Kind.TEXT, "gpu_name"),
    _gpu("instances", Kind.TEXTS),
    _gpu("joules", Kind.NUMBER),
    _gpu("joules_low", Kind.NUMBER),
    _gpu("joules_high", Kind.NUMBER),
    _gpu("mean_watts", Kind.NUMBER),
    _gpu("peak_watts", Kind.NUMBER),
    _gpu("backend", Kind.TEXT),
    _gpu("method", Kind.TEXT),
    _gpu("coverage", Kind.NUMBER),
    _gpu("covered_s", Kind.NUMBER),
    _gpu("gap_s", Kind.NUMBER),
    _gpu("largest_gap_s", Kind.NUMBER),
    _gpu("max_gap_s", Kind.NUMBER),
    _gpu("sample_count", Kind.COUNT),
    _gpu("resets", Kind.COUNT),
    _joules_by(Backend.ZEUS),
    _joules_by(Backend.NVML),
    _joules_by(Backend.CODECARBON),
    _gpu("emissions_g", Kind.NUMBER),
    Column("warnings", Kind.TEXTS, _warnings),
)
_ADDED: Final = {
    "price": _gpu("price", Kind.NUMBER),
    "idle_j": _gpu("idle_j", Kind.NUMBER),
    "active_j": _gpu("active_j", Kind.NUMBER),
    "calibrated": _gpu("calibrated", Kind.FLAG),
    "exact_j": _gpu("exact_j", Kind.NUMBER),
}


def columns(added: tuple[str, ...] = ()) -> tuple[Column, ...]:
    """All columns in their order; those of figures that were asked for come last."""
    return (*COLUMNS, *(_ADDED[name] for name in added))


def rows(result: WindowResult, wanted: tuple[Column, ...]) -> Iterator[Row]:
    """A row for each GPU of a window, or the one that says that it has none."""
    for gpu in result.gpus or (None,):
        yield tuple(column.of(result, gpu) for column in wanted)
