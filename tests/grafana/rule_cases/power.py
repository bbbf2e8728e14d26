"""Unit tests of the alerts on a GPU's power: a load that must fire, the load just below, and how it ends.

The loads lie 1 % above and below their thresholds.
"""

from tests.grafana.promtool import Case, Firing, Message
from tests.grafana.scraped import Gpu

HIGH = Gpu("GPU-high").labels


def near_limit() -> Case:
    alert = "LlemGpuNearPowerLimit"
    return Case(
        "near its limit for long; an alert ends below 0.95 x 0.95 of the limit only",
        [
            Gpu("GPU-high").draws(0.96 * 700, 20).draws(0.91 * 700, 30).draws(0.89 * 700, 60),
            Gpu("GPU-low", gpu="1").draws(0.94 * 700, 110),
            Gpu("GPU-short", gpu="2").draws(0.99 * 700, 8).draws(0.8 * 700, 102),
            Gpu("GPU-no-limit", gpu="3", limit_watts=1e6).draws(699, 110),
        ],
        [
            Firing(10, alert),
            Firing(12, alert, [HIGH]),
            Firing(49, alert, [HIGH]),
            Firing(60, alert, [HIGH]),
            Firing(70, alert),
            Message(
                12,
                alert,
                HIGH,
                "GPU 0 of n1:9955 is at its power limit",
                "GPU-high has drawn 96% of its enforced limit, on average over 5 min, for more than 10 min. "
                "Its clocks are likely held down.",
            ),
        ],
    )


def power_high() -> Case:
    alert = "LlemGpuPowerHigh"
    return Case(
        "above an absolute threshold; a bursty load counts by its mean",
        [
            Gpu("GPU-high", limit_watts=1200).draws(1010, 20).draws(960, 30).draws(940, 40),
            Gpu("GPU-low", gpu="1", limit_watts=1200).draws(990, 90),
            Gpu("GPU-short", gpu="2", limit_watts=1200).draws(900, 20).draws(1100, 4).draws(900, 66),
        ],
        [
            Firing(5, alert),
            Firing(7, alert, [HIGH]),
            Firing(28, alert, [HIGH]),
            Firing(49, alert, [HIGH]),
            Firing(61, alert, [HIGH]),
            Firing(67, alert),
            Message(
                7,
                alert,
                HIGH,
                "GPU 0 of n1:9955 draws 1010 W",
                "GPU-high draws 1010 W, on average over 5 min. "
                "That is more than llem:threshold:gpu_power_watts allows.",
            ),
        ],
    )


def flapping() -> Case:
    """A load that swings about the threshold fires once: promtool sees it firing at each check."""
    alert = "LlemGpuPowerHigh"
    gpu = Gpu("GPU-high", limit_watts=1200).draws(1100, 20)
    for _ in range(8):
        gpu.draws(800, 6).draws(1050, 6)
    return Case(
        "flapping: a load that swings about the threshold stays one alert",
        [gpu.draws(800, 30)],
        [*(Firing(minute, alert, [HIGH]) for minute in range(10, 116, 3)), Firing(145, alert)],
    )


def missed_scrapes() -> Case:
    alert = "LlemGpuNearPowerLimit"
    gpu = Gpu("GPU-high").draws(0.7 * 700, 10)
    for _ in range(4):
        gpu.draws(0.98 * 700, 4).missed(1, watts=0.98 * 700)
    return Case(
        "scrapes that fail for a minute start no `for` anew, and let no alert end",
        [gpu.draws(0.98 * 700, 20)],
        [Firing(20, alert), *(Firing(minute, alert, [HIGH]) for minute in (25.5, 29.5, 34.5, 45))],
    )


def idle_drawing() -> Case:
    alert = "LlemGpuIdleDrawing"
    return Case(
        "idle and drawing",
        [
            Gpu("GPU-high").draws(151.5, 60, utilization=0.0495).draws(151.5, 60, utilization=0.9),
            Gpu("GPU-low", gpu="1").draws(148.5, 120, utilization=0),
            Gpu("GPU-used", gpu="2").draws(151.5, 120, utilization=0.0505),
            Gpu("GPU-now-and-then", gpu="3")
            .draws(400, 29, utilization=0)
            .draws(400, 1, utilization=0.9)
            .draws(400, 29, utilization=0)
            .draws(400, 61, utilization=0.9),
        ],
        [
            Firing(30, alert),
            Firing(32, alert, [HIGH]),
            Firing(69, alert, [HIGH]),
            Firing(75, alert),
            Message(
                32,
                alert,
                HIGH,
                "GPU 0 of n1:9955 does nothing and draws 152 W",
                "GPU-high has run next to nothing for more than 30 min and draws 152 W, "
                "on average over 5 min.",
            ),
        ],
    )


def power_drop() -> Case:
    alert = "LlemGpuPowerDrop"
    job = {"gpu": "2", "uuid": "GPU-job"}
    at_the_threshold = {"gpu": "5", "uuid": "GPU-202"}
    return Case(
        "a sudden drop while in use, or while a job has the GPU",
        [
            Gpu("GPU-high").draws(600, 20).draws(0.495 * 600, 40, utilization=0.505),
            Gpu("GPU-low", gpu="1").draws(600, 20).draws(0.505 * 600, 40),
            Gpu("GPU-job", gpu="2").draws(600, 20, job="4711").draws(70, 40, utilization=0, job="4711"),
            Gpu("GPU-ended", gpu="3").draws(600, 20, job="4712").draws(70, 40, utilization=0.495),
            Gpu("GPU-198", gpu="4").draws(198, 20).draws(60, 40),
            Gpu("GPU-202", gpu="5").draws(202, 20).draws(60, 40),
            Gpu("GPU-slow", gpu="6").draws(600, 20).draws(450, 10).draws(300, 10).draws(200, 20),
        ],
        [
            Firing(20, alert),
            Firing(22.5, alert),
            Firing(25, alert, [HIGH, HIGH | job, HIGH | at_the_threshold]),
            Firing(34, alert, [HIGH, HIGH | job, HIGH | at_the_threshold]),
            Firing(42, alert),
        ],
    )


def power_drop_missed() -> Case:
    alert = "LlemGpuPowerDrop"
    gpu = Gpu("GPU-high").draws(600, 20)
    for _ in range(6):
        gpu.draws(100, 1).missed(0.25, watts=100)
    return Case(
        "a drop while one scrape in five fails",
        [gpu.draws(100, 20)],
        [Firing(20, alert), *(Firing(minute, alert, [HIGH]) for minute in (25, 27, 30))],
    )


def power_drop_message() -> Case:
    alert = "LlemGpuPowerDrop"
    return Case(
        "the text of a drop",
        [Gpu("GPU-high").draws(600, 20).draws(100, 40)],
        [
            Firing(20, alert),
            Message(
                25,
                alert,
                HIGH,
                "The power of GPU 0 of n1:9955 fell to 100 W",
                "GPU-high draws 100 W, on average over 2 min: less than llem:threshold:power_drop_ratio of "
                "what it drew 5 min before, though it is in use or a job has it. A job that hangs looks "
                "like this.",
            ),
        ],
    )


def power_brake() -> Case:
    alert = "LlemGpuPowerBrake"
    off, on = {"hw_power_brake": 0.0, "hw_thermal": 0.0}, {"hw_power_brake": 1.0, "hw_thermal": 0.0}
    return Case(
        "power brake, at a single scrape",
        [
            Gpu("GPU-high")
            .draws(300, 20, throttled=off)
            .draws(300, 0.25, throttled=on)
            .draws(300, 30, throttled=off),
            Gpu("GPU-low", gpu="1").draws(300, 50, throttled={"hw_power_brake": 0, "sw_power_cap": 1}),
        ],
        [
            Firing(20.5, alert),
            Firing(22, alert, [HIGH]),
            Firing(34, alert, [HIGH]),
            Firing(37, alert),
            Message(
                22,
                alert,
                HIGH,
                "The power brake of GPU 0 of n1:9955 is on",
                "The hardware's power brake has slowed GPU-high down in the last 5 min (reading 1 of 1): "
                "the supply of its machine asked for it.",
            ),
        ],
    )


def thermal_slowdown() -> Case:
    alert = "LlemGpuThermalSlowdown"
    hot, cool = {"hw_thermal": 1.0, "sw_thermal": 0.0}, {"hw_thermal": 0.0, "sw_thermal": 0.0}
    high, low = Gpu("GPU-high"), Gpu("GPU-low", gpu="1")
    for gpu in (high, low):
        gpu.draws(650, 10, throttled=cool)
    for _ in range(8):
        # 5 and 3 of the 40 scrapes in ten minutes; the threshold is 4.
        high.draws(650, 1.25, throttled=hot).draws(650, 8.75, throttled=cool)
        low.draws(650, 0.75, throttled=hot).draws(650, 9.25, throttled=cool)
    labels = HIGH | {"reason": "hw_thermal"}
    return Case(
        "heat slows a GPU down now and then",
        [high.draws(300, 60, throttled=cool), low.draws(300, 60, throttled=cool)],
        [
            Firing(15, alert),
            Firing(18, alert, [labels]),
            Firing(80, alert, [labels]),
            Firing(102, alert, [labels]),
            Firing(112, alert),
        ],
    )


def thermal_slowdown_message() -> Case:
    alert = "LlemGpuThermalSlowdown"
    return Case(
        "the text of a slowdown",
        [Gpu("GPU-high").draws(650, 10, throttled={"sw_thermal": 1.0, "hw_slowdown": 1.0})],
        [
            Firing(4, alert),
            Message(
                6,
                alert,
                HIGH | {"reason": "sw_thermal"},
                "Heat slows GPU 0 of n1:9955 down",
                "sw_thermal held the clocks of GPU-high down at 100% of the scrapes of the last 10 min.",
            ),
        ],
    )


FAST = (
    near_limit,
    power_high,
    flapping,
    missed_scrapes,
    idle_drawing,
    power_drop,
    power_drop_missed,
    power_drop_message,
    power_brake,
    thermal_slowdown,
    thermal_slowdown_message,
)
