"""The columns of CSV, Parquet and Arrow, with a row for each window and GPU.

A window without GPUs has one row with empty GPU columns, so that its reasons are in the output.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from llem_core.backend import Backend
from llem_integrator.results.fields import GpuEnergy, WindowResult

Row = tuple[Any, ...]


class ColumnType(StrEnum):
    """The types of values. A time is in unix seconds, and TEXTS is a tuple of texts."""

    TEXT = "text"
    TEXTS = "texts"
    NUMBER = "number"
    COUNT = "count"
    FLAG = "flag"
    TIME = "time"


@dataclass(frozen=True, slots=True)
class Column:
    """A column, and the function that returns its value for a window and one of its GPUs, if there is any."""

    name: str
    kind: ColumnType
    of: Callable[[WindowResult, GpuEnergy | None], Any]


def _window(field: str, kind: ColumnType, name: str = "") -> Column:
    return Column(name or field, kind, lambda result, _: getattr(result, field))


def _gpu(field: str, kind: ColumnType, name: str = "") -> Column:
    return Column(name or field, kind, lambda _, gpu: None if gpu is None else getattr(gpu, field))


def _joules_by(backend: Backend) -> Column:
    def joules(_: WindowResult, gpu: GpuEnergy | None) -> float | None:
        return None if gpu is None else gpu.joules_by_backend.get(backend)

    return Column(f"joules_{backend}", ColumnType.NUMBER, joules)


def _warnings(result: WindowResult, gpu: GpuEnergy | None) -> tuple[str, ...]:
    """Return the codes of the warnings of this GPU and of the window, each once."""
    concerned = (None,) if gpu is None else (None, gpu.uuid)
    codes = (str(warning.code) for warning in result.warnings if warning.uuid in concerned)
    return tuple(dict.fromkeys(codes))


COLUMNS: Final = (
    _window("name", ColumnType.TEXT, "window"),
    _window("start", ColumnType.TIME),
    _window("end", ColumnType.TIME),
    _window("duration_sec", ColumnType.NUMBER),
    _window("valid", ColumnType.FLAG),
    _window("reasons", ColumnType.TEXTS),
    _window("backend", ColumnType.TEXT, "window_backend"),
    _window("scope", ColumnType.TEXT),
    _window("total_j", ColumnType.NUMBER),
    _gpu("uuid", ColumnType.TEXT),
    _gpu("gpu", ColumnType.TEXT),
    _gpu("name", ColumnType.TEXT, "gpu_name"),
    _gpu("instances", ColumnType.TEXTS),
    _gpu("joules", ColumnType.NUMBER),
    _gpu("joules_low", ColumnType.NUMBER),
    _gpu("joules_high", ColumnType.NUMBER),
    _gpu("mean_watts", ColumnType.NUMBER),
    _gpu("peak_watts", ColumnType.NUMBER),
    _gpu("backend", ColumnType.TEXT),
    _gpu("method", ColumnType.TEXT),
    _gpu("coverage", ColumnType.NUMBER),
    _gpu("covered_s", ColumnType.NUMBER),
    _gpu("gap_s", ColumnType.NUMBER),
    _gpu("largest_gap_s", ColumnType.NUMBER),
    _gpu("max_gap_s", ColumnType.NUMBER),
    _gpu("sample_count", ColumnType.COUNT),
    _gpu("resets", ColumnType.COUNT),
    _joules_by(Backend.ZEUS),
    _joules_by(Backend.NVML),
    _joules_by(Backend.CODECARBON),
    _gpu("emissions_g", ColumnType.NUMBER),
    Column("warnings", ColumnType.TEXTS, _warnings),
)


def columns(added: tuple[str, ...] = ()) -> tuple[Column, ...]:
    """Return all columns in their order. The columns of requested figures are the last."""
    kinds = {"calibrated": ColumnType.FLAG}
    return (*COLUMNS, *(_gpu(name, kinds.get(name, ColumnType.NUMBER)) for name in added))


def rows(result: WindowResult, wanted: tuple[Column, ...]) -> Iterator[Row]:
    """Yield a row for each GPU of a window, or one row if it has no GPU."""
    for gpu in result.gpus or (None,):
        yield tuple(column.of(result, gpu) for column in wanted)
