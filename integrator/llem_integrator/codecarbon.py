"""What CodeCarbon's counters say of a node: joules without a split by GPU, and grams per joule."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from llem_integrator.backends import Request
from llem_integrator.counter import Counter, counted
from llem_integrator.integral import Integral
from llem_integrator.readings import NodeReadings
from llem_integrator.window import Window

GPU: Final = ("gpu",)
REST: Final = ("cpu", "ram")
ALL: Final = (*REST, *GPU)


@dataclass(frozen=True, slots=True)
class NodeEnergy:
    """A node's joules of its GPUs and of the rest, and its grams of CO2 equivalent per joule, if known."""

    gpu: Integral | None = None
    rest: Integral | None = None
    grams_per_joule: float | None = None


def measure(node: NodeReadings, window: Window, request: Request, limit_watts: float | None) -> NodeEnergy:
    """The node's energy in a window; `limit_watts` is that of all its GPUs together."""
    grams = _count(node.name, [node.grams(window)], window, request, None)
    every = _count(node.name, [node.joules(part, window) for part in ALL], window, request, None)
    return NodeEnergy(
        gpu=_count(node.name, [node.joules(part, window) for part in GPU], window, request, limit_watts),
        rest=_count(node.name, [node.joules(part, window) for part in REST], window, request, None),
        grams_per_joule=_rate(grams, every),
    )


def _rate(grams: Integral | None, energy: Integral | None) -> float | None:
    """Grams per joule of the same window."""
    if not (grams and energy and energy.joules) or grams.joules is None:
        return None
    return grams.joules / energy.joules


def _count(
    node: str, counters: Sequence[Counter | None], window: Window, request: Request, limit_watts: float | None
) -> Integral | None:
    """The rise of several counters together; they are read at the same times."""
    total: Integral | None = None
    for counter in counters:
        max_gap_ms = request.max_gap_of(f"{node} codecarbon", counter.unix_ms) if counter else None
        if counter is None or max_gap_ms is None:
            continue
        part = counted(counter, window, max_gap_ms, limit_watts)
        total = part if total is None else _sum(total, part)
    return total


def _sum(one: Integral, other: Integral) -> Integral:
    """Joules and bounds of both, with the coverage of the one that is covered less."""

    def added(left: float | None, right: float | None) -> float | None:
        return None if left is None or right is None else left + right

    less = min(one, other, key=lambda integral: integral.coverage)
    return replace(
        less,
        joules=added(one.joules, other.joules),
        low=added(one.low, other.low),
        high=added(one.high, other.high),
    )
