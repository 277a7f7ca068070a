"""How often somebody may ask: token buckets in the memory of one process."""

from __future__ import annotations

import time
from collections.abc import Callable


class Buckets:
    """One bucket for every name, which holds `burst` and fills at `rate` a second."""

    def __init__(
        self, rate: float, burst: float, *, most: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate, self.burst, self.most, self.clock = rate, burst, most, clock
        self._held: dict[str, tuple[float, float]] = {}

    def take(self, name: str) -> float:
        """Take one; returns 0, or the seconds to wait where the bucket is empty.

        >>> buckets = Buckets(2.0, 1, clock=lambda: 0.0)
        >>> buckets.take("a"), buckets.take("a"), buckets.take("b")
        (0.0, 0.5, 0.0)
        """
        now = self.clock()
        if len(self._held) >= self.most:
            self._forget(now)
        left, since = self._held.get(name, (self.burst, now))
        left = min(self.burst, left + (now - since) * self.rate)
        if left >= 1:
            self._held[name] = (left - 1, now)
            return 0.0
        self._held[name] = (left, now)
        return (1 - left) / self.rate

    def _forget(self, now: float) -> None:
        """Drop buckets that are full again; all of them, if none is."""
        full = [
            name
            for name, (left, since) in self._held.items()
            if left + (now - since) * self.rate >= self.burst
        ]
        for name in full:
            del self._held[name]
        if not full:
            self._held.clear()
