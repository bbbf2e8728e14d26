"""Whether a window has the same figures alone, together, in any order and in any pieces.

python tests/bench/bench_together.py [--cases 10000] [--seed 0]

Random stores (label sets that move, replicas, holes, resets, restarts, frozen counters) and windows with
matchers of their own, by every backend. Results are compared to the bit. Ends with 1 if any differ.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.llem_integrator.test_together import differing


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare windows alone and together.")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    begun_s = time.monotonic()
    wrong = [seed for seed in range(asked.seed, asked.seed + asked.cases) if differing(seed)]
    took_s = time.monotonic() - begun_s
    print(f"{len(wrong)} of {asked.cases} cases differ, {took_s:.0f} s   first: {wrong[:5]}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
