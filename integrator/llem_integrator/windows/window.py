"""Windows, and the notations of times and durations."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Self

from llem_core.errors import ConfigError

if TYPE_CHECKING:
    from llem_core.measurement import MeasurementWarning
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
_UNIX = re.compile(r"(\d{1,20})(?:\.(\d+))?", re.ASCII)
_COMPACT_DATE = re.compile(r"((?:19|20)\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?:\d{4}|\d{6})?")
"""20261124, 202611241200 or 20261124120000. As unix seconds, these are times without any GPU samples."""
_FINER_UNITS = {13: "milliseconds", 16: "microseconds", 19: "nanoseconds"}
"""The units of unix times since 2001 by their number of digits."""
_LEAP_SECOND = re.compile(r"(?<=[T ]\d\d:\d\d:)60")
_RELATIVE = re.compile(r"now(?:([+-])(.+))?")
_END_US = 253_402_300_800_000_000  # the year 10000, where datetime ends
_SHOWN = 60
_DURATION_FORMS = "100ms, 30s, 15m, 1h30m or 2d"
_TIME_FORMS = "RFC 3339 (2026-01-31T12:00:00Z), unix seconds, now, or now-1h"


class LocalTimeError(ConfigError):
    """A time without an offset whose offset is not known."""


@dataclass(frozen=True, slots=True)
class Window:
    """The half-open interval [start, end) in whole unix microseconds, with an optional name.

    `selectors` and `gpus` (NVML indices or UUIDs) replace those of the request if they are given.
    `gpu_count` is how many GPUs a job had on `hosts`, at least one on each, if nothing says which.
    `gpus_unknown` is the reason if not even their number is known, or if the job had slices or shares.
    `warnings` are repeated in the window's result.
    """

    start_us: int
    end_us: int
    name: str | None = None
    selectors: "tuple[Selector, ...] | None" = None
    gpus: tuple[str, ...] | None = None
    gpu_count: int | None = None
    hosts: "Hosts | None" = None
    gpus_unknown: str | None = None
    warnings: "tuple[MeasurementWarning, ...]" = ()

    def __post_init__(self) -> None:
        if not (_representable(self.start_us) and _representable(self.end_us)):
            raise ConfigError("window out of range: it must lie between the years 1970 and 9999")
        if self.end_us <= self.start_us:
            start, end = rfc3339(self.start_us), rfc3339(self.end_us)
            raise ConfigError(f"window ends at {end}, not after its start at {start}: write a later end")

    @classmethod
    def between(cls, start: float | datetime, end: float | datetime, name: str | None = None) -> Self:
        """Return the window between two instants: unix seconds, or datetimes with a zone.

        Raises ConfigError.
        """
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
    """Return the instant in UTC, with milliseconds if it has a fraction."""
    seconds, fraction_us = divmod(unix_us, 1_000_000)
    stamp = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{stamp}.{fraction_us // 1000:03d}Z" if fraction_us else f"{stamp}Z"


def parse_duration_us(text: str) -> int:
    """Return the microseconds of `1h30m`, `90s` or `100ms`; raises ConfigError for other text and zero."""
    if not _DURATION.fullmatch(text):
        raise ConfigError(f"not a duration: {text[:_SHOWN]!r} (write {_DURATION_FORMS})")
    parts: Iterable[tuple[str, str]] = _PART.findall(text)
    total = round(min(2.0**62, sum(float(number) * _UNIT_US[unit] for number, unit in parts)))
    if not 0 < total < 2**62:
        raise ConfigError(f"duration out of range: {text[:_SHOWN]!r} (write {_DURATION_FORMS})")
    return total


def parse_time_us(text: str, now_us: int, zone: tzinfo | None) -> int:
    """Return the unix microseconds of RFC 3339, unix seconds, `now` or `now-1h`; raises ConfigError.

    A time without an offset is in `zone`. LocalTimeError is raised if its offset is not known.
    """
    text = text.strip()
    if unix := _UNIX.fullmatch(text):
        return _unix_us(unix)
    if relative := _RELATIVE.fullmatch(text):
        sign, duration = relative.groups()
        return now_us if sign is None else now_us + int(f"{sign}1") * parse_duration_us(duration)
    try:
        moment, leap_s = _moment(text)
    except ValueError:
        raise ConfigError(f"not a time: {text[:_SHOWN]!r} (write {_TIME_FORMS})") from None
    if moment.tzinfo is None:
        if zone is None:
            raise LocalTimeError(f"time without a zone: {text!r}: add Z or an offset, or give --timezone")
        moment = _in_zone(moment, zone)
    try:
        return _in_range(_since_epoch_us(moment) + leap_s * 1_000_000, text)
    except OverflowError:
        raise ConfigError(f"time out of range: {text!r}") from None


def _unix_us(unix: re.Match[str]) -> int:
    seconds, fraction = unix.groups(default="")
    if date := _COMPACT_DATE.fullmatch(seconds):
        form = "-".join(date.group(1, 2, 3))
        raise ConfigError(f"{unix[0]!r} looks like a date, not like unix seconds (write {form}T00:00:00Z)")
    if unit := _FINER_UNITS.get(len(seconds)):
        form = f"{seconds[:10]}.{seconds[10:]}"
        raise ConfigError(f"{unix[0]!r} looks like {unit}; unix times are in seconds (write {form})")
    return _in_range(int(seconds) * 1_000_000 + int(f"{fraction[:6]:0<6}"), unix[0])


def _moment(text: str) -> tuple[datetime, int]:
    """Return a time in RFC 3339 and the seconds to add: 23:59:60 is 23:59:59 and 1 s. Raises ValueError."""
    text, leap_s = _LEAP_SECOND.subn("59", text.upper(), count=1)
    return datetime.fromisoformat(text), leap_s


def _in_zone(moment: datetime, zone: tzinfo) -> datetime:
    """Return a local time with its zone; raises LocalTimeError for a time that occurs twice or never."""
    first, second = (moment.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if first.utcoffset() != second.utcoffset():
        back = first.astimezone(UTC).astimezone(zone).replace(tzinfo=None) == moment
        what = "occurs twice in {} (clocks go back)" if back else "does not exist in {} (clocks go forward)"
        raise LocalTimeError(f"{moment} {what.format(zone)}: write it with an offset")
    return first


def parse_window(text: str, now_us: int, zone: tzinfo | None) -> Window:
    """Return the window of `START,END` or `START,+DURATION`; raises ConfigError that says what is wrong."""
    start, comma, end = text.partition(",")
    if not comma or "," in end:
        raise ConfigError(f"not a window: {text[:_SHOWN]!r} (write START,END or START,+15m)")
    return Window(*parse_edges_us(start, end, now_us, zone))


def parse_edges_us(start: str, end: str, now_us: int, zone: tzinfo | None) -> tuple[int, int]:
    """Return the unix microseconds of a start and an end, which may be `+DURATION`; raises ConfigError."""
    start_us = parse_time_us(start, now_us, zone)
    if end.strip().startswith("+"):
        return start_us, start_us + parse_duration_us(end.strip()[1:])
    return start_us, parse_time_us(end, now_us, zone)


def _representable(unix_us: int) -> bool:
    return 0 <= unix_us < _END_US


def _in_range(unix_us: int, text: str) -> int:
    if not _representable(unix_us):
        raise ConfigError(f"time out of range: {text!r} (unix times are in seconds)")
    return unix_us
