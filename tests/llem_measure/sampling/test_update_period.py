"""How often a sensor changes, found from samples of it."""

import random
from collections.abc import Callable

import pytest

from llem_measure.sampling.update_period import UpdatePeriod

INTERVAL_S = 0.1
JITTER_S = 0.002


class Sensor:
    """A sensor that updates every `period_s`, with noise of 1 W, or holds 60 W while `is_idle`."""

    def __init__(self, period_s: float, is_idle: Callable[[float], bool] = lambda _: False) -> None:
        self._period_s, self._is_idle = period_s, is_idle

    def watts(self, now_s: float) -> float:
        updated_s = now_s // self._period_s * self._period_s
        if self._is_idle(updated_s):
            return 60.0
        return round(8 * random.Random(round(updated_s * 1e6)).gauss(300, 1)) / 8


class AveragingSensor(Sensor):
    """A sensor whose value is the mean of the last second."""

    def watts(self, now_s: float) -> float:
        updated_s = now_s // self._period_s * self._period_s
        # A load that changes every 0.7 s between 100 and 500 W.
        watts = [100.0 if (updated_s - n / 100) // 0.7 % 2 else 500.0 for n in range(100)]
        return round(8 * sum(watts) / 100) / 8


def measured(sensor: Sensor, duration_s: float, jitter_s: float = JITTER_S) -> UpdatePeriod:
    """Return the estimate after reading a sensor at every tick, each up to `jitter_s` late."""
    period, rng = UpdatePeriod(), random.Random(20_261_130)
    for tick in range(int(duration_s / INTERVAL_S)):
        now_s = 5000.013 + tick * INTERVAL_S + rng.uniform(0, jitter_s)
        period.add(now_s, sensor.watts(now_s))
    return period


@pytest.mark.parametrize(
    ("period_s", "duration_s", "expected_s"),
    [
        (0.02, 5, 0.1),
        (0.1, 10, 0.1),
        (0.09998, 60, 0.1),
        (0.15, 20, 0.15),
        (0.25, 20, 0.25),
        (0.5, 30, 0.5),
        (10.0, 120, 10.0),
    ],
)
@pytest.mark.parametrize("jitter_s", [0.0, 0.002, 0.03])
def test_the_period_of_a_sensor_is_found(
    period_s: float, duration_s: float, expected_s: float, jitter_s: float
) -> None:
    """A sensor that updates more often than it is read has a period of at most the interval."""
    assert measured(Sensor(period_s), duration_s, jitter_s).seconds == pytest.approx(expected_s, rel=0.1)


@pytest.mark.parametrize("period_s", [0.1, 0.5])
def test_the_period_of_a_mean_is_that_of_its_updates(period_s: float) -> None:
    """A sensor may show the mean of a second, and update more often or less often than that."""
    assert measured(AveragingSensor(period_s), 60).seconds == pytest.approx(period_s, rel=0.1)


@pytest.mark.parametrize("idle", [lambda s: s % 60 > 20, lambda s: s > 5020, lambda s: s < 5040])
def test_constant_power_does_not_lengthen_it(idle: Callable[[float], bool]) -> None:
    """A GPU that is idle between jobs, after one or before one has constant power for minutes."""
    assert measured(Sensor(0.1, idle), 300).seconds == pytest.approx(0.1, rel=0.1)
    assert measured(Sensor(0.5, idle), 300).seconds == pytest.approx(0.5, rel=0.1)


def test_equal_neighbours_do_not_lengthen_it() -> None:
    """In steps of 1/8 W, noise is often equal twice."""
    assert measured(Sensor(0.1, lambda s: random.Random(s).random() < 0.5), 60).seconds == pytest.approx(
        0.1, rel=0.1
    )


def test_it_is_not_known_before_eight_changes() -> None:
    """The first value's own change is not seen, so eight steps need ten values."""
    period = UpdatePeriod()
    for tick in range(9):
        period.add(tick * 0.5, float(tick))
        assert period.seconds is None
    period.add(4.5, 9.0)
    assert period.seconds == 0.5
    assert measured(Sensor(0.1, lambda _: True), 600).seconds is None


def test_one_early_reading_does_not_shorten_it() -> None:
    """Among readings every 500 ms, one that comes after 300 ms hardly matters."""
    period = UpdatePeriod()
    for tick in range(200):
        period.add(tick * 0.5 - (0.2 if tick == 50 else 0.0), float(tick))
    assert period.seconds == pytest.approx(0.5, rel=0.1)
