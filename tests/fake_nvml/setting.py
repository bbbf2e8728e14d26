"""Attributes of a fake GPU that live in the shared state, in the units that people think in."""

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from . import layout

T = TypeVar("T")

CALL_CLASSES = ("fields", "energy", "power", "slow")


class HasState(Protocol):
    """What has settings."""

    state: layout.Gpu


class Setting(Generic[T]):
    """An attribute that lives in the shared state."""

    def __init__(self, field: str, read: Callable[[Any], T], write: Callable[[T], Any]) -> None:
        self._field, self._read, self._write = field, read, write

    def __get__(self, gpu: "HasState", owner: type["HasState"]) -> T:
        return self._read(getattr(gpu.state, self._field))

    def __set__(self, gpu: "HasState", value: T) -> None:
        setattr(gpu.state, self._field, self._write(value))


def whole(field: str) -> Setting[int]:
    return Setting(field, int, int)


def real(field: str) -> Setting[float]:
    return Setting(field, float, float)


def flag(field: str) -> Setting[bool]:
    return Setting(field, bool, int)


def text(field: str) -> Setting[str]:
    return Setting(field, bytes.decode, str.encode)


def watts(field: str) -> Setting[float]:
    return Setting(field, lambda milliwatts: milliwatts / 1000, lambda watts: round(1000 * watts))


def clocks(field: str) -> Setting[tuple[int, ...]]:
    return Setting(field, tuple, lambda clocks: clocks)


def optional(field: str) -> Setting[float | None]:
    return Setting(field, lambda x: None if x < 0 else x, lambda x: -1 if x is None else x)


def call_classes(field: str) -> Setting[frozenset[str]]:
    return Setting(
        field,
        lambda bits: frozenset(name for n, name in enumerate(CALL_CLASSES) if bits >> n & 1),
        lambda names: sum(1 << CALL_CLASSES.index(name) for name in names),
    )
