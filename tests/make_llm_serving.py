"""Write llm_serving.csv: 60 s of synthetic LLM-serving power on two GPUs, a row each every 50 ms.

This is a model, not a recording; no GPU was measured. What it models, for one engine per GPU:

- requests arrive at random, in bursts (an exponential gap between bursts, a few requests in each);
- a free engine takes what waits, at most a batch of it, and prefills: compute-bound, 0.2 to 1 s
  near the power limit, the longer the more requests it took;
- it then decodes until the answers are out: memory-bound, a plateau that grows with the batch and
  falls as its requests finish, with small noise;
- requests that arrive meanwhile queue, and are prefilled as soon as the batch is done;
- between bursts the GPU idles, and its power falls off over a second (clocks go down in steps).

The two GPUs differ in idle power, limit, gain of the load and number of requests. Watts are multiples of
1/8 W, as the exporter's samples are. Joules are a counter: the exact trapezoid over the rows before,
so the energy between any two rows is known without error. The last row, 60 s after the first, has
the first one's watts: played in a loop, the power is continuous. A fixed seed and only
`random.random()` make the file the same on every machine.

Usage: python tests/make_llm_serving.py > exporter/llem_exporter/replay/traces/llm_serving.csv
"""

import math
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TextIO

SEED = 20240607
DURATION_MS = 60_000
LAST_BURST_S = 50.0
STEP_MS = 50
STEPS_PER_WATT = 8

PREFILL_BASE_S = 0.2
PREFILL_PER_REQUEST_S = 0.1
DECODE_MIN_S, DECODE_MAX_S = 1.0, 4.0
MAX_BATCH = 8
FALL_S = 0.35
"""Time constant of the fall from load to idle."""


@dataclass(frozen=True)
class Gpu:
    """One GPU and its traffic; powers are watts, `burst_gap_s` is the mean time between bursts."""

    index: int
    idle_watts: float
    prefill_watts: float
    decode_base_watts: float
    decode_per_request_watts: float
    noise_watts: float
    burst_gap_s: float
    burst_max: int
    first_joules: int


GPUS = (
    Gpu(
        index=0,
        idle_watts=72.0,
        prefill_watts=672.0,
        decode_base_watts=355.0,
        decode_per_request_watts=11.0,
        noise_watts=4.0,
        burst_gap_s=3.0,
        burst_max=6,
        first_joules=1_000_000,
    ),
    Gpu(
        index=1,
        idle_watts=86.5,
        prefill_watts=618.0,
        decode_base_watts=345.0,
        decode_per_request_watts=9.0,
        noise_watts=6.5,
        burst_gap_s=6.5,
        burst_max=3,
        first_joules=2_345_678,
    ),
)


def between(rng: random.Random, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def noise(rng: random.Random, watts: float) -> float:
    """Noise of mean 0, `watts` at most but for rare values: the sum of three uniform ones."""
    return watts * (rng.random() + rng.random() + rng.random() - 1.5)


def arrivals(gpu: Gpu, rng: random.Random) -> list[float]:
    """Times of all requests, in seconds."""
    times: list[float] = []
    burst_s = 1.0
    while burst_s < LAST_BURST_S:
        requests = 1 + int(rng.random() * gpu.burst_max)
        times.extend(burst_s + between(rng, 0.0, 0.3) for _ in range(requests))
        burst_s -= gpu.burst_gap_s * math.log(1.0 - rng.random())
    return sorted(times)


@dataclass(frozen=True)
class Batch:
    """Requests served together: when their prefill starts and ends, and when each answer is out."""

    prefill_s: float
    decode_s: float
    answers_s: tuple[float, ...]

    @property
    def end_s(self) -> float:
        return max(self.answers_s)


def batches(gpu: Gpu, rng: random.Random) -> list[Batch]:
    """What the engine runs, one batch after the other."""
    served: list[Batch] = []
    waiting = arrivals(gpu, rng)
    free_s = 0.0
    while waiting:
        start_s = max(free_s, waiting[0])
        taken = [time_s for time_s in waiting if time_s <= start_s][:MAX_BATCH]
        waiting = waiting[len(taken) :]
        decode_s = start_s + min(1.0, PREFILL_BASE_S + PREFILL_PER_REQUEST_S * len(taken))
        answers_s = tuple(decode_s + between(rng, DECODE_MIN_S, DECODE_MAX_S) for _ in taken)
        served.append(Batch(start_s, decode_s, answers_s))
        free_s = served[-1].end_s
    return served


def load_watts(gpu: Gpu, served: list[Batch], now_s: float, rng: random.Random) -> float | None:
    """Power of the batch that runs now, or None where none does."""
    for batch in served:
        if batch.prefill_s <= now_s < batch.decode_s:
            return gpu.prefill_watts + noise(rng, 2 * gpu.noise_watts)
        if batch.decode_s <= now_s < batch.end_s:
            active = sum(answer_s > now_s for answer_s in batch.answers_s)
            watts = gpu.decode_base_watts + gpu.decode_per_request_watts * active
            return watts + noise(rng, gpu.noise_watts)
    return None


def power(gpu: Gpu, rng: random.Random) -> Iterator[Fraction]:
    """Watts at each step, as exact multiples of 1/8 W."""
    served = batches(gpu, rng)
    excess_watts = 0.0
    yield Fraction(gpu.idle_watts)
    for step in range(1, DURATION_MS // STEP_MS):
        watts = load_watts(gpu, served, step * STEP_MS / 1000, rng)
        if watts is None:
            excess_watts *= math.exp(-STEP_MS / 1000 / FALL_S)
            watts = gpu.idle_watts + excess_watts + noise(rng, gpu.noise_watts / 4)
        else:
            excess_watts = watts - gpu.idle_watts
        yield Fraction(round(watts * STEPS_PER_WATT), STEPS_PER_WATT)
    yield Fraction(gpu.idle_watts)


def rows(gpu: Gpu, rng: random.Random) -> Iterator[tuple[int, int, Fraction, Fraction]]:
    """Time (ms), index, watts and joules of each row."""
    joules = Fraction(gpu.first_joules)
    before: Fraction | None = None
    for step, watts in enumerate(power(gpu, rng)):
        if before is not None:
            joules += (before + watts) / 2 * STEP_MS / 1000
        before = watts
        yield step * STEP_MS, gpu.index, watts, joules


def decimal(value: Fraction) -> str:
    """The value's digits, all of them: denominators are powers of 2 and 5."""
    places = 0
    while (value * 10**places).denominator != 1:
        places += 1
    whole = str(int(value * 10**places)).rjust(places + 1, "0")
    return f"{whole[:-places]}.{whole[-places:]}" if places else whole


def write(out: TextIO) -> None:
    """Write the whole file, in order of time, then GPU."""
    rng = random.Random(SEED)
    out.write("seconds,gpu,watts,joules\n")
    out.writelines(
        f"{time_ms / 1000:.2f},{index},{decimal(watts)},{decimal(joules)}\n"
        for time_ms, index, watts, joules in sorted(row for gpu in GPUS for row in rows(gpu, rng))
    )


if __name__ == "__main__":
    write(sys.stdout)
