"""GPUs of a window's result that are made when they are first looked at: of millions, most never are."""

from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import Any, Self, overload

from llem_integrator.energy.result import GpuEnergy

Rows = list[tuple[GpuEnergy, ...]]


class Batch:
    """The GPUs of one node, named `uuids`, in many windows; made for all of them at once, which is fast."""

    __slots__ = ("_lock", "_make", "_rows", "uuids")

    def __init__(self, uuids: tuple[str, ...], make: Callable[[], Rows]) -> None:
        self.uuids = uuids
        self._make: Callable[[], Rows] | None = make
        self._rows: Rows = []
        self._lock = Lock()

    def row(self, number: int) -> tuple[GpuEnergy, ...]:
        """Those of one window. Safe to call from many threads at once."""
        with self._lock:
            if self._make is not None:
                self._rows, self._make = self._make(), None
        return self._rows[number]


class Gpus(Sequence[GpuEnergy]):
    """The GPUs of one window, node by node; equal to a tuple of the same."""

    __slots__ = ("_parts",)

    def __init__(self, parts: tuple[tuple[Batch, int], ...]) -> None:
        self._parts = parts

    @classmethod
    def together(cls, every: Sequence["Gpus"]) -> Self:
        """All of them, in their order."""
        return cls(tuple([part for one in every for part in one._parts]))

    def _made(self) -> tuple[GpuEnergy, ...]:
        return tuple([gpu for batch, number in self._parts for gpu in batch.row(number)])

    def __len__(self) -> int:
        return sum([len(batch.uuids) for batch, _ in self._parts])

    def __iter__(self) -> Iterator[GpuEnergy]:
        return iter(self._made())

    @overload
    def __getitem__(self, index: int) -> GpuEnergy: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[GpuEnergy, ...]: ...
    def __getitem__(self, index: int | slice) -> GpuEnergy | tuple[GpuEnergy, ...]:
        return self._made()[index]

    def __eq__(self, other: object) -> bool:
        return self._made() == tuple(other) if isinstance(other, tuple | Gpus) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._made())

    def __repr__(self) -> str:
        return repr(self._made())

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, in another process too, is a plain tuple."""
        return tuple, (self._made(),)
