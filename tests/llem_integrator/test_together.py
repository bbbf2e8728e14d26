"""A window's figures depend only on the samples in and around it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llem_core.backend import Backend
from llem_integrator.integration import integrate
from llem_integrator.results.fields import WindowResult
from llem_integrator.results.request import Request
from tests.llem_integrator.random_stores import random_store, random_windows

BACKENDS = (None, Backend.ZEUS, Backend.NVML)


def differing(seed: int) -> list[WindowResult]:
    """The windows of a random case whose results differ alone, in another order, or without pieces."""
    rng = np.random.default_rng(seed)
    held, windows = random_store(rng), random_windows(rng)
    request = Request(BACKENDS[seed % len(BACKENDS)], min_coverage=0.5)
    together = list(integrate(held, windows, request))
    order = rng.permutation(len(windows)).tolist()
    shuffled = dict(zip(order, integrate(held, [windows[n] for n in order], request), strict=True))
    whole = list(integrate(held.held, windows, request))
    alone = [next(integrate(held, [window], request)) for window in windows]
    return [
        result
        for number, result in enumerate(together)
        if not result == shuffled[number] == whole[number] == alone[number]
    ]


@given(st.integers(0, 2**40))
def test_alone_together_in_any_order_and_in_any_pieces(seed: int) -> None:
    """Label sets, replicas, holes, resets, restarts, frozen counters and matchers: equal to the bit."""
    assert differing(seed) == []
