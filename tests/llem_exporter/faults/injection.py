"""Faults of a fake GPU, by name: each is a function that sets or clears it."""

from collections.abc import Callable, Mapping

from tests.fake_nvml import FakeGpu

Inject = Callable[[FakeGpu, bool], object]

SPIKE_WATTS = 1400.0
"""Twice the highest limit of the fake GPUs, which is the highest valid power."""

FALL_JOULES = 1200.0
"""Less than two seconds at the limit, so that the fall is not taken for a restart."""

JUMP_JOULES = 1e6


def _denied(*calls: str) -> Inject:
    return lambda gpu, on: setattr(gpu, "denied", frozenset(calls if on else ()))


def _power_reads(watts: float) -> Inject:
    return lambda gpu, on: setattr(gpu, "power_override_watts", watts if on else None)


def _unsupported(gpu: FakeGpu, on: bool) -> None:
    gpu.power_supported = gpu.energy_supported = not on


def _restarted(gpu: FakeGpu, on: bool) -> None:
    if on:
        gpu.reset_counter()


def _fallen(gpu: FakeGpu, on: bool) -> None:
    if on:
        gpu.step_counter(-FALL_JOULES)


FAULTS: Mapping[str, Inject] = {
    "lost": lambda gpu, on: setattr(gpu, "lost", on),
    "hung": lambda gpu, on: setattr(gpu, "hung", on),
    "slow": lambda gpu, on: setattr(gpu, "slow_call_s", 0.05 if on else 0.0),
    "unreadable": _denied("fields", "power", "energy"),
    "power denied": _denied("fields", "power"),
    "counter denied": _denied("energy"),
    "status denied": _denied("slow"),
    "unsupported": _unsupported,
    "zero": _power_reads(0.0),
    "absurd": _power_reads(10_000.0),
    "spike": _power_reads(SPIKE_WATTS),
    "counter fell": _fallen,
    "counter jumped": lambda gpu, on: gpu.step_counter(JUMP_JOULES if on else -JUMP_JOULES),
    "counter restarted": _restarted,
}
