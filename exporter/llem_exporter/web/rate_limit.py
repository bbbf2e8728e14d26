"""A token bucket: so many requests at once, and one more each interval."""

from collections.abc import Callable
from time import monotonic


class TokenBucket:
    """Full at its start; `interval_s` in seconds."""

    def __init__(self, interval_s: float, burst: int, clock: Callable[[], float] = monotonic) -> None:
        self._interval_s, self._burst, self._clock = interval_s, burst, clock
        self._tokens, self._counted_s = float(burst), clock()

    def take(self) -> bool:
        """Whether there was a token."""
        now_s = self._clock()
        self._tokens = min(self._burst, self._tokens + (now_s - self._counted_s) / self._interval_s)
        self._counted_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
