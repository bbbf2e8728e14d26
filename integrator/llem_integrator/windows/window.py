"""Windows, and the forms in which people write times and durations."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Self

from llem_core.errors import ConfigError

if TYPE_CHECKING:
    from llem_integrator.stores import Selector
    from llem_integrator.windows.hosts import Hosts

_UNIT_US = {
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")
_UNIX = re.compile(r"\d{1,20}(?:\.\d+)?")
_RELATIVE = re.compile(r"now(?:([+-])(.+))?")
_END_US = 253_402_300_800_000_000  # the year 10000, where datetime ends
_SHOWN = 60
_TIME_FORMS = "RFC 3339 (2026-01-31T12:00:00Z), unix seconds, now, or now-1h"


@dataclass(frozen=True, slots=True)
class Window:
    """The half-open stretch [start, end) in whole unix microseconds, with the name it was given, if any.

    `selectors` and `gpus` (NVML indices or uuids) stand for those of the request, where they are given.
    `gpu_count` is how many of these GPUs a job had, where nobody knows which (0: slices of them); it had some
    on each of `hosts`.
    """

    start_us: int
    end_us: int
    name: str | None = None
    selectors: "tuple[Selector, ...] | None" = None
    gpus: tuple[str, ...] | None = None
    gpu_count: int | None = None
    hosts: "Hosts | None" = None

    def __post_init__(self) -> None:
        if not (_representable(self.start_us) and _representable(self.end_us)):
            raise ConfigError("window out of range: it must lie between the years 1970 and 9999")
        if self.end_us <= self.start_us:
            start, end = rfc3339(self.start_us), rfc3339(self.end_us)
            raise ConfigError(f"window ends at {end}, which is not after its start {start}")

    @classmethod
    def between(cls, start: float | datetime, end: float | datetime, name: str | None = None) -> Self:
        """The window of two instants, each unix seconds or a datetime with a zone; raises ConfigError."""
        return cls(_instant_us(start), _instant_us(end), name)

    @property
    def duration_s(self) -> float:
        return (self.end_us - self.start_us) / 1e6


def _instant_us(instant: float | datetime) -> int:
    if isinstance(instant, datetime):
        if instant.tzinfo is None:
            raise ConfigError(f"time without a zone: {instant} (give the datetime a tzinfo)")
        return _since_epoch_us(instant)
    if not abs(instant) < _END_US / 1e6:
        raise ConfigError(f"time out of range: {instant} (unix times are in seconds)")
    return round(instant * 1e6)


def _since_epoch_us(moment: datetime) -> int:
    since_epoch = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since_epoch.days * 86_400 + since_epoch.seconds) * 1_000_000 + since_epoch.microseconds


def rfc3339(unix_us: int) -> str:
    """The instant in UTC, to the millisecond where it has a fraction."""
    seconds, fraction_us = divmod(unix_us, 1_000_000)
    stamp = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{stamp}.{fraction_us // 1000:03d}Z" if fraction_us else f"{stamp}Z"


def parse_duration_us(text: str) -> int:
    """Microseconds of `1h30m`, `90s`, `100ms`; raises ConfigError for anything else, and for zero."""
    if not _DURATION.fullmatch(text):
        raise ConfigError(f"not a duration: {text[:_SHOWN]!r} (write 100ms, 30s, 15m, 1h30m or 2d)")
    parts: Iterable[tuple[str, str]] = _PART.findall(text)
    total = round(min(2.0**62, sum(float(number) * _UNIT_US[unit] for number, unit in parts)))
    if not 0 < total < 2**62:
        raise ConfigError(f"duration out of range: {text[:_SHOWN]!r}")
    return total


def parse_time_us(text: str, now_us: int, zone: tzinfo | None) -> int:
    """Unix microseconds of a time in any of the accepted forms.

    `zone` is what a time without an offset is in; without it such a time raises ConfigError.
    """
    text = text.strip()
    if _UNIX.fullmatch(text):
        seconds, _, fraction = text.partition(".")
        return _in_range(int(seconds) * 1_000_000 + int(f"{fraction[:6]:0<6}"), text)
    if relative := _RELATIVE.fullmatch(text):
        sign, duration = relative.groups()
        return now_us if sign is None else now_us + int(f"{sign}1") * parse_duration_us(duration)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"not a time: {text[:_SHOWN]!r} (write {_TIME_FORMS})") from None
    if moment.tzinfo is None:
        if zone is None:
            raise ConfigError(f"time without a zone: {text!r} (add Z or an offset, or give --timezone)")
        moment = _in_zone(moment, zone)
    try:
        return _in_range(_since_epoch_us(moment), text)
    except OverflowError:
        raise ConfigError(f"time out of range: {text!r}") from None


def _in_zone(moment: datetime, zone: tzinfo) -> datetime:
    """A local time; raises ConfigError for one that clocks showed twice, or never."""
    first, second = (moment.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if first.utcoffset() != second.utcoffset():
        back = first.astimezone(UTC).astimezone(zone).replace(tzinfo=None) == moment
        shown = "showed twice" if back else "never showed"
        raise ConfigError(f"{moment} is a time that clocks of {zone} {shown} (write it with an offset)")
    return first


def parse_window(text: str, now_us: int, zone: tzinfo | None) -> Window:
    """A window of `START,END` or `START,+DURATION`; raises ConfigError with what is wrong."""
    start, comma, end = text.partition(",")
    if not comma or "," in end:
        raise ConfigError(f"not a window: {text[:_SHOWN]!r} (write START,END or START,+15m)")
    start_us = parse_time_us(start, now_us, zone)
    if end.strip().startswith("+"):
        return Window(start_us, start_us + parse_duration_us(end.strip()[1:]))
    return Window(start_us, parse_time_us(end, now_us, zone))


def _representable(unix_us: int) -> bool:
    return 0 <= unix_us < _END_US


def _in_range(unix_us: int, text: str) -> int:
    if not _representable(unix_us):
        raise ConfigError(f"time out of range: {text!r} (unix times are in seconds)")
    return unix_us
