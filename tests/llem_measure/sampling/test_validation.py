"""Which readings can be true."""

from math import inf, nan

import pytest

from llem_core.errors import DeviceError
from llem_measure.sampling.validation import check_power, known_limit_mw, rounded


@pytest.mark.parametrize(
    ("value", "sample"),
    [(nan, None), (inf, None), (1e308, None), (-0.1, None), (0.0, 0.0), (100.06, 100.0), (100.07, 100.125)],
)
def test_a_sample_is_a_finite_number_of_eighths(value: float, sample: float | None) -> None:
    """NaN, infinite and negative values are not samples. Others are rounded to 1/8."""
    assert rounded(value, 8) == sample


@pytest.mark.parametrize(
    ("milliwatts", "limit_mw", "times_limit", "error"),
    [
        (0, 700_000, 2.0, "ZERO_POWER"),
        (0xFFFF_FFFF, 700_000, 2.0, "NOT_A_SAMPLE"),
        (1_400_001, 700_000, 2.0, "POWER_ABOVE_LIMIT"),
        (2_800_001, 700_000, 4.0, "POWER_ABOVE_LIMIT"),
        (5_000_001, None, 2.0, "POWER_ABOVE_LIMIT"),
        (752_000_000, None, 4.0, "POWER_ABOVE_LIMIT"),
    ],
)
def test_power_that_cannot_be_true_is_an_error(
    milliwatts: int, limit_mw: int | None, times_limit: float, error: str
) -> None:
    """0 W, "not available" and power above the maximum, which is 5 kW if no limit is known."""
    with pytest.raises(DeviceError) as failure:
        check_power(milliwatts, limit_mw, times_limit)
    assert failure.value.name == error


@pytest.mark.parametrize(
    ("milliwatts", "limit_mw"), [(1, 700_000), (1_400_000, 700_000), (5_000_000, None), (3_125, None)]
)
def test_other_power_is_in_watts(milliwatts: int, limit_mw: int | None) -> None:
    """A real spike may exceed the limit."""
    assert check_power(milliwatts, limit_mw) == milliwatts / 1000


def test_zero_and_not_available_are_unknown_limits() -> None:
    """Some cards report them in place of a limit."""
    assert [known_limit_mw(mw) for mw in (None, 0, 0xFFFF_FFFF, 300_000)] == [None, None, None, 300_000]
