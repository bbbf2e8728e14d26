"""Time forms, durations and windows."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem_core.errors import ConfigError
from llem_integrator.windows.window import Window, parse_duration_us, parse_time_us, parse_window, rfc3339

NOW_US = 1_795_507_606_250_000


TIMES = [
    ("1795507546", 1_795_507_546_000_000),
    ("1795507546.1234567", 1_795_507_546_123_456),
    ("2026-11-24T08:45:46Z", 1_795_509_946_000_000),
    ("2026-11-24T09:45:46.5+01:00", 1_795_509_946_500_000),
    ("2026-11-24 08:45:46+00:00", 1_795_509_946_000_000),
    ("2026-11-24t08:45:46z", 1_795_509_946_000_000),
    ("2026-11-24 08:45:46z", 1_795_509_946_000_000),
    ("2026-11-24T08:44:60Z", 1_795_509_900_000_000),
    ("2016-12-31T23:59:60.5Z", 1_483_228_800_500_000),
    ("2026-11-24T09:45:60+01:00", 1_795_509_960_000_000),
    ("20261124T084546Z", 1_795_509_946_000_000),
    ("now", NOW_US),
    ("now-1h30m", NOW_US - 5_400_000_000),
    ("now+100ms", NOW_US + 100_000),
]


def test_time_forms(subtests: pytest.Subtests) -> None:
    """Each valid form is parsed to the microsecond."""
    for text, unix_us in TIMES:
        with subtests.test(text=text, unix_us=unix_us):
            assert parse_time_us(text, NOW_US, None) == unix_us


@pytest.mark.parametrize(
    ("text", "words"),
    [("2026-10-25T02:30:00", "occurs twice in"), ("2026-03-29T02:30:00", "does not exist in")],
)
def test_an_hour_that_comes_twice_or_never_is_nobodys_guess(text: str, words: str) -> None:
    """At a clock change, a local time needs its offset. Other times do not."""
    berlin = ZoneInfo("Europe/Berlin")
    with pytest.raises(ConfigError, match=f"{words} Europe/Berlin.*offset"):
        parse_time_us(text, NOW_US, berlin)
    assert parse_time_us(f"{text}+01:00", NOW_US, berlin) == parse_time_us(f"{text}+01:00", NOW_US, None)
    for hours in (-1, 1):
        beside = datetime.fromisoformat(text) + timedelta(hours=hours)
        utc = beside.replace(tzinfo=berlin).astimezone(UTC)
        assert parse_time_us(str(beside), NOW_US, berlin) == parse_time_us(str(utc), NOW_US, None)


def test_a_zoneless_time_needs_a_zone() -> None:
    """A time without an offset uses --timezone, and is rejected without it."""
    berlin = ZoneInfo("Europe/Berlin")
    with_zone = parse_time_us("2026-07-01T12:00:00", NOW_US, berlin)
    assert with_zone == parse_time_us("2026-07-01T10:00:00Z", NOW_US, None)
    with pytest.raises(ConfigError, match="--timezone"):
        parse_time_us("2026-07-01T12:00:00", NOW_US, None)


LOOKALIKES = [
    ("20261124", "looks like a date, not like unix seconds (write 2026-11-24T00:00:00Z)"),
    ("202611241200", "write 2026-11-24T00:00:00Z"),
    ("20261124120000", "write 2026-11-24T00:00:00Z"),
    ("1795507546123", "looks like milliseconds; unix times are in seconds (write 1795507546.123)"),
    ("1795507546123.5", "looks like milliseconds"),
    ("1795507546123456", "looks like microseconds; unix times are in seconds (write 1795507546.123456)"),
    ("1795507546123456789", "looks like nanoseconds"),
]


def test_numbers_that_are_not_seconds_are_named(subtests: pytest.Subtests) -> None:
    """The error says what the number looks like, and how to write it."""
    for text, message in LOOKALIKES:
        with subtests.test(text=text):
            with pytest.raises(ConfigError) as caught:
                parse_time_us(text, NOW_US, UTC)
            assert message in str(caught.value)


def test_bad_times_are_one_line(subtests: pytest.Subtests) -> None:
    """The error is one line that shows the text."""
    for text in [
        "",
        "yesterday",
        "now-",
        "now-5",
        "now-1h x",
        "-5",
        "1e9",
        "nan",
        "1795507546123",
        "9" * 13,
        "2026-11-24T08:60:00Z",
        "2026-11-24T08:45:61Z",
        "9999-12-31T23:59:60Z",
        "9" * 5000,
    ]:
        with subtests.test(text=text):
            with pytest.raises(ConfigError) as caught:
                parse_time_us(text, NOW_US, UTC)
            assert "\n" not in str(caught.value)


def test_durations(subtests: pytest.Subtests) -> None:
    """Durations are sums of numbers with units."""
    for text, microseconds in [
        ("100ms", 100_000),
        ("1.5s", 1_500_000),
        ("1h30m", 5_400_000_000),
        ("2d", 172_800_000_000),
    ]:
        with subtests.test(text=text, microseconds=microseconds):
            assert parse_duration_us(text) == microseconds


def test_bad_durations(subtests: pytest.Subtests) -> None:
    """Invalid durations and a duration of 0 are rejected."""
    for text in ["", "15", "0s", "m", "-1s", "1 s", "1y", "9" * 30 + "w", "9" * 400 + "d"]:
        with subtests.test(text=text), pytest.raises(ConfigError):
            parse_duration_us(text)


def test_windows() -> None:
    """A window is two times, or a time and a duration."""
    assert parse_window("now-1m, now", NOW_US, None) == Window(NOW_US - 60_000_000, NOW_US)
    assert parse_window("1795507546,+15m", NOW_US, None).duration_s == 900


IMPOSSIBLE = [
    *("now", "now,now", "now,now-1s", "now,+0s", "1,2,3", ",", "now-1h,+x"),
    *("now+9999999d,+1h", "now-9999999d,+1h", "1,+2000000w", f"1,{'9' * 5000}", f"1,+{'9' * 400}s"),
]


def test_impossible_windows(subtests: pytest.Subtests) -> None:
    """A window that is empty, reversed, out of range or not two times is an error of one line."""
    for text in IMPOSSIBLE:
        with subtests.test(text=text):
            with pytest.raises(ConfigError) as caught:
                parse_window(text, NOW_US, None)
            assert len(str(caught.value)) < 200


@given(st.text(max_size=30))
def test_any_text_is_a_window_or_a_config_error(text: str) -> None:
    """No text raises another exception."""
    try:
        window = parse_window(text, NOW_US, UTC)
    except ConfigError:
        return
    assert window.end_us > window.start_us


@given(st.integers(0, 4_000_000_000_000_000 // 1000))
def test_printed_times_read_back(unix_ms: int) -> None:
    """A printed time is parsed to the same time."""
    assert parse_time_us(rfc3339(unix_ms * 1000), NOW_US, None) == unix_ms * 1000
