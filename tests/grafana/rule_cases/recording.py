"""Unit tests of the recording rules: resets, GPUs that move, exporters side by side, holes."""

import re
from collections.abc import Mapping

from tests.grafana.promtool import Case, Firing, Value
from tests.grafana.scraped import Gpu, HistoryOfGpu

ENERGY = "uuid:llem_gpu_energy_joules:increase5m"
POWER = "uuid:llem_gpu_power_watts:mean5m"
KWH = "uuid:llem_gpu_energy_kwh:increase1d"


def about(minute: float, expression: str, values: Mapping[str, float], within: float = 0.01) -> list[Value]:
    """The expression has these series, by their labels, each within a share of its value."""
    low = Value(minute, f"count({expression})", {"{}": len(values)})
    return [low, *(_one(minute, expression, labels, value, within) for labels, value in values.items())]


def _one(minute: float, expression: str, labels: str, value: float, within: float) -> Value:
    selected = expression if labels == "{}" else re.sub(r"uuid:[\w:]+", rf"\g<0>{labels}", expression)
    return Value(minute, f"count(abs(({selected}) - {value}) <= {within * value})", {"{}": 1})


A, B = '{uuid="GPU-a"}', '{uuid="GPU-b"}'


def mean_power() -> Case:
    """Joules over seconds covered: neither gaps nor missed scrapes nor a restart change it."""
    gpu = Gpu("GPU-a").draws(400, 10, covered=0.6).missed(2, watts=400).draws(400, 10)
    gpu.missed(1).exporter_restarts().draws(400, 10)
    history = HistoryOfGpu(gpu).scraped(33)
    checks = []
    for minute in (2, 11, 14, 21, 25, 30):
        checks += about(minute, POWER, {A: 400}, within=1e-9)
        checks += about(minute, "uuid:llem_gpu_power_limit:ratio5m", {A: 400 / 700}, within=1e-9)
        checks += about(minute, "fleet:llem_gpu_power_watts:sum", {"{}": 400}, within=1e-9)
    return Case("mean power", [gpu, history], checks)


def moved() -> Case:
    """GPU-a moves at minute 20, from one exporter to another; it is one GPU all the time."""
    first = Gpu("GPU-a", "10.0.0.1:9955").draws(300, 20).missed(40)
    second = Gpu("GPU-a", "10.0.0.7:9955", gpu="3").absent(20).draws(300, 40)
    other = Gpu("GPU-b", "n2:9955").draws(200, 60)
    checks = []
    for minute in (10, 19, 21, 22, 23, 30, 50):
        checks += about(minute, POWER, {A: 300, B: 200})
        checks += about(minute, "fleet:llem_gpu_power_watts:sum", {"{}": 500})
        # In the one window that holds the move, the larger part counts.
        checks += about(minute, ENERGY, {A: 90_000, B: 60_000}, within=0.6 if 20 < minute < 25 else 0.01)
    where = "count by (instance) (instance:llem_gpu_power_watts:sum)"
    checks += [
        Value(19, where, {'{instance="10.0.0.1:9955"}': 1, '{instance="n2:9955"}': 1}),
        Value(25, where, {'{instance="10.0.0.7:9955"}': 1, '{instance="n2:9955"}': 1}),
    ]
    return Case("a GPU that moves", [first, second, other], checks)


def replaced_pod() -> Case:
    """A pod follows another at one instance: it is one GPU, and a drop is noticed all the same."""
    drops = Gpu("GPU-b", gpu="1", pod="p2").absent(20).draws(600, 3).draws(100, 37)
    scraped = [
        Gpu("GPU-a", pod="p1").draws(300, 20).missed(40),
        Gpu("GPU-a", pod="p2").absent(20).draws(300, 40),
        Gpu("GPU-b", gpu="1", pod="p1").draws(600, 20).missed(40),
        drops,
    ]
    checks: list[Value | Firing] = []
    for minute in (19, 21, 22, 23):
        checks += about(minute, POWER, {A: 300, B: 600})
        checks += about(minute, "fleet:llem_gpu_power_watts:sum", {"{}": 900})
    checks += [Firing(20, "LlemGpuPowerDrop"), Firing(28, "LlemGpuPowerDrop", [drops.labels])]
    return Case("a pod is replaced", scraped, checks)


def moved_with_zeus() -> Case:
    """The hardware's counter goes on in another exporter, and nothing is lost or counted twice."""
    first = Gpu("GPU-a", "10.0.0.1:9955", zeus_joules=3e9).draws(300, 20).missed(40)
    second = Gpu("GPU-a", "10.0.0.7:9955", zeus_joules=3e9).missed(20, watts=300).draws(300, 40)
    checks = []
    for minute in (10, 20, 21, 22, 24, 26, 30, 50):
        checks += about(minute, ENERGY, {A: 90_000}, within=0.06)
    return Case("a GPU that moves, with its own counter", [first, second], checks)


def side_by_side() -> Case:
    """Two exporters read one GPU, one of them 15 s behind; each goes and comes back."""
    ahead = Gpu("GPU-a", "n1:9955", zeus_joules=3e9).draws(300, 20).missed(1, watts=300).draws(300, 9)
    ahead.missed(30, watts=300)
    behind = Gpu("GPU-a", "n1:9956", zeus_joules=3e9 - 4500).draws(300, 60)
    checks = []
    for minute in (10, 20.25, 20.5, 21, 22, 30.25, 30.5, 31, 35, 36, 50):
        checks += about(minute, ENERGY, {A: 90_000}, within=0.06)
        checks += about(minute, "fleet:llem_gpu_power_watts:sum", {"{}": 300})
    checks.append(Value(59, f"max_over_time({ENERGY}[58m]) > 1e5", {}))
    return Case("two exporters with one GPU", [ahead, behind], checks)


def resets() -> Case:
    """Counters of two GPUs begin at 0 again, one of the exporter's, one of the hardware's."""
    ours = Gpu("GPU-a").draws(300, 20).exporter_restarts().draws(300, 40)
    hardware = Gpu("GPU-b", "n2:9955", zeus_joules=3e9).draws(200, 20)
    hardware.zeus_joules = 0
    hardware.draws(200, 40)
    checks = []
    for minute in (10, 21, 22, 24, 35, 50):
        # A hardware counter that restarted is followed once its old value is 5 min old, and then at once.
        checks += about(minute, f"max_over_time({ENERGY}[5m])", {A: 90_000, B: 60_000}, within=0.06)
    checks += about(45, f"sum_over_time({ENERGY}[29m59s:5m])", {A: 540_000, B: 360_000}, within=0.06)
    checks.append(Value(59, f"max_over_time({ENERGY}[58m]) > 1.2e5", {}))
    checks += about(35, "fleet:llem_gpu_energy_joules:increase5m", {"{}": 150_000}, within=0.06)
    return Case("counters that begin at 0 again", [ours, hardware], checks)


def day() -> Case:
    """kWh of 24 hours at 1 kW: moves, restarts and a hole; a hardware's counter bridges the hole."""
    steady = Gpu("GPU-a", limit_watts=1200, zeus_joules=3e9).draws(1000, 1510)
    hole = Gpu("GPU-b", gpu="1", limit_watts=1200, zeus_joules=3e9)
    hole.draws(1000, 700).missed(120, watts=1000).draws(1000, 690)
    moves = Gpu("GPU-c", gpu="2", limit_watts=1200).draws(1000, 400).missed(1110)
    moved_to = Gpu("GPU-c", "n2:9955", limit_watts=1200).absent(400).draws(1000, 500)
    moved_to.exporter_restarts().draws(1000, 610)
    lost = Gpu("GPU-d", gpu="3", limit_watts=1200).draws(1000, 700).lost(120).draws(1000, 690)
    expected = {"GPU-a": 24.0, "GPU-b": 24.0, "GPU-c": 24.0, "GPU-d": 22.0}
    by_uuid = {f'{{uuid="{uuid}"}}': kwh for uuid, kwh in expected.items()}
    checks = [*about(1500, KWH, by_uuid, within=0.01), *about(1503, KWH, by_uuid, within=0.01)]
    checks += about(1500, "fleet:llem_gpu_energy_kwh:increase1d", {"{}": 94.0}, within=0.01)
    return Case("kWh of a day", [steady, hole, moves, moved_to, lost], checks)


FAST = (mean_power, moved, replaced_pod, moved_with_zeus, side_by_side, resets)
SLOW = (day,)
