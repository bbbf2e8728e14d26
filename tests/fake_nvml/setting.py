"""Attributes that live in the shared state, in the units that people think in."""

import ctypes
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, Generic, Protocol, TypeVar

from . import layout

T = TypeVar("T")


class HasState(Protocol):
    """What has settings."""

    @property
    def state(self) -> ctypes.Structure:
        """The structure that has the fields."""


class Setting(Generic[T]):
    """An attribute that lives in the shared state."""

    def __init__(self, field: str, read: Callable[[Any], T], write: Callable[[T], Any]) -> None:
        self._field, self._read, self._write = field, read, write

    def __get__(self, owner: "HasState", kind: type["HasState"]) -> T:
        return self._read(getattr(owner.state, self._field))

    def __set__(self, owner: "HasState", value: T) -> None:
        setattr(owner.state, self._field, self._write(value))


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


def clocks(field: str) -> Setting[tuple[int | None, ...]]:
    return Setting(
        field,
        lambda clocks: tuple(None if mhz == layout.NO_CLOCK else mhz for mhz in clocks),
        lambda clocks: tuple(layout.NO_CLOCK if mhz is None else mhz for mhz in clocks),
    )


def optional(field: str) -> Setting[float | None]:
    return Setting(field, lambda x: None if x < 0 else x, lambda x: -1 if x is None else x)


def optional_text(field: str) -> Setting[str | None]:
    return Setting(field, lambda text: text.decode() or None, lambda text: (text or "").encode())


def call_names(field: str, names: Sequence[str]) -> Setting[Set[str]]:
    """One bit for each of these calls."""
    return Setting(
        field,
        lambda bits: frozenset(name for n, name in enumerate(names) if bits >> n & 1),
        lambda chosen: sum(1 << names.index(name) for name in chosen),
    )


def call_delays(field: str, names: Sequence[str]) -> Setting[Mapping[str, float]]:
    """Seconds for each of these calls; those that are not named have no delay."""

    def write(delays: Mapping[str, float]) -> tuple[float, ...]:
        if unknown := delays.keys() - set(names):
            raise ValueError(f"no such call: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
        return tuple(delays.get(name, 0.0) for name in names)

    return Setting(
        field,
        lambda seconds: {name: delay for name, delay in zip(names, seconds, strict=True) if delay},
        write,
    )
